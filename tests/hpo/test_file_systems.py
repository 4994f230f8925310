"""File systems that lack something: locks, hard links, the difference between `a` and `A`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Run, one_error, optimize, require, standin_settings, wait_for, write_config

from hpo import lockfile
from hpo.dataset.split import split_validation
from hpo.dataset.survey import find_data
from hpo.errors import UsageError
from hpo.folders import ignores_case, other_spelling
from hpo.lockfile import held

HOLD = """
import sys, time
from pathlib import Path
from hpo.lockfile import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def no_locks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that takes locks and links away from a folder."""
    if shutil.which("cc") is None:
        require("cc", "no C compiler for the stand-in of a file system")
    library = tmp_path_factory.mktemp("no_locks") / "no_locks.so"
    source = Path(__file__).with_name("no_locks.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def poor(no_locks: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which `tmp_path/poor` has neither locks nor hard links."""
    (tmp_path / "poor").mkdir()
    yield {"LD_PRELOAD": str(no_locks), "NO_LOCKS_BELOW": str(tmp_path / "poor")}


def test_a_search_needs_neither_locks_nor_links_for_its_output(
    poor: dict[str, str], discs: Path, run: Run, tmp_path: Path
) -> None:
    output, worker = tmp_path / "poor", standin_settings(tmp_path, {})
    result = run(
        "rml-optimize", *optimize(discs, "--worker", worker, "--num-trials", 3, "--jobs", 2),
        "--select-on", "validation", "--output-dir", output,
        "--storage", f"sqlite:///{tmp_path / 'study.db'}", **poor,
    )  # fmt: skip
    assert "best trial: number" in result.stdout, result.stderr
    assert "Function not implemented" not in result.stdout + result.stderr
    assert (output / "best_model/best_model_file.pt").exists()
    images = list(output.glob("runs/*/split_*/*/inputs/*"))
    assert len(images) == 12
    assert {image.stat().st_nlink for image in images} == {1}
    assert not list(output.rglob("*.held*"))


def test_sqlite_without_locks_is_one_clear_line(
    poor: dict[str, str], discs: Path, run: Run, standin: str, tmp_path: Path
) -> None:
    given = optimize(discs, "--worker", standin, "--output-dir", tmp_path / "poor")
    error = one_error(run("rml-optimize", *given, **poor))
    assert "is on a file system without locks, which SQLite needs; name a local disk" in error


def test_the_image_cache_says_why_it_is_not_used(
    poor: dict[str, str], discs: Path, run: Run, tmp_path: Path
) -> None:
    write_config(tmp_path / "config.json", discs)
    cache = str(tmp_path / "poor/cache")
    result = run("rmldnn", "--config=config.json", cwd=tmp_path, RML_CACHE_DIR=cache, **poor)
    assert result.returncode == 0, result.stderr
    assert "its file system has no locks (Function not implemented); name another" in result.stdout


def test_a_held_file_is_held_by_one_and_not_by_the_dead(tmp_path: Path) -> None:
    lock = tmp_path / ".best.held"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    entered = threading.Event()

    def enter() -> None:
        with held(lock):
            entered.set()

    waiting = threading.Thread(target=enter)
    waiting.start()
    assert not entered.wait(0.5)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    waiting.join(20)
    assert entered.is_set()
    assert not list(tmp_path.iterdir())


def test_many_do_not_hold_a_file_at_once(tmp_path: Path) -> None:
    inside, most = 0, 0

    def enter() -> None:
        nonlocal inside, most
        for _ in range(3):
            with held(tmp_path / "x.held"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.01)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, inside) == (1, 0)


def test_a_file_that_another_machine_holds_is_taken_when_nobody_touches_it_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockfile, "STALE_S", 1.0)
    lock, is_alive = tmp_path / "x.held", threading.Event()
    lock.write_text("another-host/boot.1.2.3/token")
    is_alive.set()

    def touch() -> None:
        while is_alive.is_set():
            os.utime(lock)
            time.sleep(0.1)

    toucher = threading.Thread(target=touch)
    toucher.start()
    entered = threading.Event()

    def enter() -> None:
        with held(lock):
            entered.set()

    waiting = threading.Thread(target=enter)
    waiting.start()
    assert not entered.wait(2.0)
    is_alive.clear()
    toucher.join()
    wait_for(entered.is_set)
    waiting.join()


def test_images_that_differ_by_case_alone_are_refused_where_they_are_one_name(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(discs, data)
    for part in ("inputs", "targets"):
        folder = data / "train" / part
        shutil.copy(folder / "img 00.png", folder / "IMG 00.png")
    folder = find_data(data, needs_test=True)
    assert not ignores_case(tmp_path)
    split_validation(folder, tmp_path / "fine", fraction=0.2)
    monkeypatch.setattr("hpo.dataset.split.ignores_case", lambda folder: True)
    with pytest.raises(UsageError, match=r"'IMG 00.png' and 'img 00.png' for one name"):
        split_validation(folder, tmp_path / "clash", fraction=0.2)
    assert not (tmp_path / "clash").exists()


def test_studies_that_differ_by_case_alone_do_not_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lesions").mkdir()
    assert other_spelling(tmp_path / "lesions") is None
    assert other_spelling(tmp_path / "Lesions") is None  # it is not there
    monkeypatch.setattr(os, "listdir", lambda folder: ["Lesions"])  # there under that name
    assert other_spelling(tmp_path / "lesions") == "Lesions"
