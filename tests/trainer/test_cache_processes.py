"""The cache of decoded images among processes: builders, crashes, its bound, its memory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cached import BUILT, FOUND, UNUSED, Load, entries, make_load
from support import clean_environment, write_discs
from worker import write_png

from trainer.data import reporting, stores
from trainer.data.cache import CacheUnusableError, cache_root, max_cache_bytes
from trainer.log import Log


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty folder for the cache, with a blank in its name."""
    return tmp_path / "my cache"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_discs(tmp_path / "data", num_train=6, num_test=3)


@pytest.fixture
def load(cache: Path, images: Path, capsys: pytest.CaptureFixture) -> Load:
    return make_load(images, cache, capsys)


# --- several processes, and crashes ------------------------------------------------------------

SCRIPT = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where CI is a background job
from trainer.config import Data
from trainer.data import reading
from trainer.data.dataset import Resolve, load_data
from trainer.log import Log
root, cache, delay_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
read = reading.read_image
def slow(path, **how):
    time.sleep(delay_s)
    return read(path, **how)
reading.read_image = slow
data = Data(cache=cache, target_is_mask=True, input_path=f"{root}/train/inputs",
            target_path=f"{root}/train/targets")
load_data(data, Resolve(Path()), Log())
"""


def start(images: Path, cache: Path, delay_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(images), str(cache), str(delay_s)],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_unfinished(cache: Path) -> Path:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for path in cache.glob("images-1/*.tmp/train_inputs.npy"):
            return path.parent
        time.sleep(0.005)
    raise AssertionError("nobody builds")


def test_one_of_several_workers_builds(images, cache) -> None:
    workers = [start(images, cache, 0.1) for _ in range(3)]
    logs = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], logs
    assert sum(BUILT in log for log in logs) == 1, logs
    assert sum(FOUND in log for log in logs) == 2, logs
    assert len(entries(cache)) == 1


def test_killed_builder_lets_the_next_one_build(images, cache, load) -> None:
    killed = start(images, cache, 1)
    wait_for_unfinished(cache)
    waiting = start(images, cache, 0)
    time.sleep(0.3)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=20)
    log, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, log
    assert BUILT in log
    assert [path.suffix for path in entries(cache)] == [""]  # what was left is gone
    loaded, log = load(test_input_path=None, test_target_path=None, grayscale=False, transforms=[])
    assert FOUND in log
    assert len(loaded.train) == 6


def test_stopped_builder_leaves_nothing(images, cache) -> None:
    stopped = start(images, cache, 1.5)  # long enough for a stalled machine to stop it in time
    wait_for_unfinished(cache)
    stopped.send_signal(signal.SIGINT)
    stopped.communicate(timeout=20)
    assert entries(cache) == []


# --- where it cannot be, and its bound ----------------------------------------------------------


def test_folder_that_cannot_be_made_is_no_failure(load, cache) -> None:
    cache.write_text("a file")
    loaded, log = load()
    assert UNUSED in log
    assert "my cache" in log
    assert len(loaded.train) == 6


@pytest.mark.parametrize("error", [28, 30, 122])  # full, read-only, quota
def test_full_disk_is_no_failure(load, cache, monkeypatch, error) -> None:
    def fail(self: object, name: str, row: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(stores.FileStore, "append", fail)
    loaded, log = load()
    assert UNUSED in log
    assert os.strerror(error) in log
    assert len(loaded.train) == 6
    assert entries(cache) == []


def test_read_only_folder_is_no_failure(load, cache, monkeypatch) -> None:
    if os.geteuid() == 0:
        monkeypatch.setattr("os.geteuid", lambda: 1)  # as if it were somebody else's
    else:
        (cache / "images-1").mkdir(parents=True)
        (cache / "images-1").chmod(0o500)
    loaded, log = load()
    assert UNUSED in log
    assert len(loaded.train) == 6


def test_least_recently_used_goes_and_what_is_in_use_stays(load, cache, monkeypatch) -> None:
    sizes = {}
    held = {}
    for side in (16, 20, 24, 28):
        held[side], _ = load(transforms=[{"resize": [side, side]}])
        [new] = set(entries(cache)) - set(sizes.values())
        sizes[side] = new
        os.utime(new.with_suffix(".use"), (side, side))
    del held[20], held[24]
    used = sum(path.stat().st_size for folder in entries(cache) for path in folder.iterdir())
    monkeypatch.setenv("RML_CACHE_GB", str((used + 1000) / 1e9))
    _, log = load(transforms=[{"resize": [18, 18]}])
    assert BUILT in log
    assert sizes[16].exists()  # older, but in use
    assert not sizes[20].exists()
    assert sizes[28].exists()
    now = sum(path.stat().st_size for folder in entries(cache) for path in folder.iterdir())
    assert now <= used + 1000
    assert held[16].train.inputs_NHWC[0].any()


def test_set_above_the_bound_stays_in_memory(load, cache, monkeypatch) -> None:
    monkeypatch.setenv("RML_CACHE_GB", "0.00001")
    loaded, log = load()
    assert UNUSED in log
    assert "RML_CACHE_GB" in log
    assert len(loaded.train) == 6
    assert entries(cache) == []


def test_deleted_entry_goes_on_working_for_who_has_it(load, cache) -> None:
    loaded, _ = load()
    expected = loaded.train.inputs_NHWC.copy()
    shutil.rmtree(cache)
    np.testing.assert_array_equal(loaded.train.inputs_NHWC, expected)


def test_place_of_the_cache(tmp_path) -> None:
    home = {"XDG_CACHE_HOME": "/x"}
    assert cache_root("auto", home) == Path("/x/rml-optimize/images-1")
    assert cache_root("auto", home | {"RML_CACHE_DIR": "/r"}) == Path("/r/images-1")
    assert cache_root("auto", home | {"RML_CACHE_DIR": "off"}) is None
    assert cache_root("off", {"RML_CACHE_DIR": "/r"}) is None
    assert cache_root("/c", {"RML_CACHE_DIR": "/r"}) == Path("/c/images-1")
    assert cache_root("auto", {}) == Path.home() / ".cache/rml-optimize/images-1"
    with pytest.raises(CacheUnusableError):
        cache_root("~nobody-of-this-name/c", {})
    assert max_cache_bytes({"RML_CACHE_GB": "2"}) == 2 * 10**9
    assert max_cache_bytes({"RML_CACHE_GB": "much"}) == max_cache_bytes({}) == 50 * 10**9


def test_relative_cache_folder_is_refused(worker) -> None:
    assert "data.cache" in worker(data__cache="cache").error()


# --- memory, and what is seen meanwhile ---------------------------------------------------------

MEMORY = """
import sys
from trainer.config import Data
from trainer.data.dataset import Resolve, load_data
from trainer.log import Log
from pathlib import Path
root, cache = sys.argv[1:]
# Not getrusage: its peak is inherited from whoever started this process.
status = Path("/proc/self/status")
peak = lambda: int(status.read_text().split("VmHWM:")[1].split()[0])
before = peak()
data = Data(cache=cache, target_is_mask=True, input_path=f"{root}/train/inputs",
            target_path=f"{root}/train/targets")
loaded = load_data(data, Resolve(Path()), Log())
print("MiB", (peak() - before) // 1024, loaded.train.inputs_NHWC.nbytes // 2**20)
"""


def test_build_needs_a_fraction_of_the_sets_memory(tmp_path, cache) -> None:
    image = np.zeros((512, 512, 3), np.uint8)
    image[100:200] = 255
    write_png(tmp_path / "train/inputs/0.png", image // 2)  # a mask that is the image is refused
    write_png(tmp_path / "train/targets/0.png", image[..., 0])
    for index in range(1, 100):
        for kind in ("inputs", "targets"):
            folder = tmp_path / "train" / kind
            os.link(folder / "0.png", folder / f"{index}.png")
    peaks = []
    for setting in (str(cache), str(cache), "off"):
        result = subprocess.run(
            [sys.executable, "-c", MEMORY, str(tmp_path), setting],
            env=clean_environment(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        peak, size = map(int, result.stdout.split("MiB")[-1].split())
        peaks.append(peak)
    assert size == 75
    assert peaks[0] < size / 3, peaks  # built
    assert peaks[1] < size, peaks  # found: what is checked, at most
    assert peaks[2] > size, peaks


class Terminal:
    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...


def test_long_reading_shows_a_bar_or_lines(load, monkeypatch) -> None:
    assert "Reading" not in load(cache="off")[1]
    monkeypatch.setattr(reporting, "SILENT_S", 0)
    assert "Reading images: 1 of 9, " in load(cache="off")[1]
    terminal = Terminal()
    with reporting.ReadingProgress(Log(), 4, terminal) as progress:
        progress.advance()
    assert f"[{'#' * 10}{' ' * 30}] Reading images: 1 of 4" in terminal.text
    assert terminal.text.endswith("\r\x1b[K")
