"""A search whose workers mean harm, from end to end: it ends well, and nothing of ours changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import BIN, Run, clean_environment, list_acc

HOSTILE = Path(__file__).parents[1] / "workers/hostile.py"
SMALL = ("--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu", "--num-epochs", "2")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the user's."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "other").write_text("mine too")
    path = folder / "file"
    path.write_text("mine")
    path.chmod(0o644)
    return path


def alive() -> set[int]:
    """Return the sleepers that daemons of the worker are."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"time.sleep(600)" in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


def test_a_search_ends_well_whatever_its_workers_do(
    discs: Path, run: Run, tmp_path: Path, victim: Path
) -> None:
    before, began = alive(), time.monotonic()
    result = run(
        "rml-optimize", *SMALL, "--data", discs, "--num-trials", 7, "--study-name", "evil",
        "--jobs", 1, "--select-on", "validation", "--max-retries", 0, "--trial-timeout", 4,
        "--sampler", "random", "--pruner", "none", "--max-failed", 9,
        "--worker", f"{sys.executable} {HOSTILE} {victim}",
    )  # fmt: skip
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert "Traceback" not in said
    assert time.monotonic() - began < 120
    assert alive() <= before
    scores = {entry["number"]: entry["max_acc"] for entry in list_acc(tmp_path)}
    assert {n: scores[n] for n in range(1, 6)} == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.5}
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("mine", 0o644)
    assert (victim.parent / "other").exists()
    for name in ("trial.json", "test.json"):
        text = (tmp_path / "best_model" / name).read_text()
        assert json.dumps(json.loads(text), allow_nan=False)
    tested = json.loads((tmp_path / "best_model/test.json").read_text())
    assert tested["interval"] is None
    assert tested["dice_per_image"] is None
    for line in said.splitlines():
        assert line.isprintable() or not line, repr(line)

    cleaned = run("rml-study", "clean", "--yes")
    said = cleaned.stdout + cleaned.stderr
    assert cleaned.returncode == 0, said
    assert all(line.isprintable() for line in said.splitlines() if line), repr(said)
    assert "\\x1b[2J\\n\\u202e.pt" in said
    assert (victim.parent / "other").exists()
    assert not list((tmp_path / "runs/evil").glob("test_of_trial_*/**/*.pt"))


def test_a_search_is_stopped_in_time_by_whatever_worker(
    discs: Path, tmp_path: Path, victim: Path
) -> None:
    script = tmp_path / "forever.py"
    text = HOSTILE.read_text().replace("number = int(", "number = 6 or int(")
    script.write_text("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + text)
    before = alive()
    driver = subprocess.Popen(
        [BIN / "rml-optimize", *SMALL, "--data", discs, "--num-trials", "2", "--jobs", "1",
         "--worker", f"{sys.executable} {script} {victim}"],
        cwd=tmp_path, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not alive() - before:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        began = time.monotonic()
        os.kill(driver.pid, signal.SIGINT)
        said, _ = driver.communicate(timeout=30)
    finally:
        driver.kill()
        driver.wait()
    assert time.monotonic() - began < 20
    assert "Traceback" not in said
    assert alive() <= before
