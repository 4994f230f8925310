"""A driver that is stopped while it holds the lock of `best_model/` loses nobody's winner."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Run, clean_environment, list_acc, optimize, standin_settings, states, wait_for

DRIVER = Path(__file__).parents[1] / "workers/frozen_driver.py"
CURVES = {"0": [0.1, 0.2, 0.3], "1": [0.7, 0.8, 0.75], "2": [0.1, 0.5, 0.4]}


def start(role: str, folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, DRIVER, role, *arguments], cwd=folder, env=clean_environment(),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def is_stopped(process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def stored(folder: Path) -> object:
    return json.loads((folder / "best_model/trial.json").read_text())["trial"]


@pytest.fixture
def search(discs: Path, tmp_path: Path) -> list[str]:
    worker = standin_settings(tmp_path, {"curve": CURVES})
    return optimize(
        discs, "--worker", worker, "--select-on", "validation", "--jobs", 1, "--lease", 2
    )


@pytest.fixture
def frozen(search: list[str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A driver that has told trial 0 and is stopped with the lock."""
    process = start("holder", tmp_path, [*search, "--num-trials", "1"])
    try:
        wait_for(lambda: is_stopped(process), 60)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("is_woken", [True, False])
def test_others_go_on_and_the_winner_comes_in_the_end(
    search: list[str], tmp_path: Path, run: Run, frozen: subprocess.Popen[str], is_woken: bool
) -> None:
    more = [*search, "--num-trials", "3"]
    other = start("other", tmp_path, more)
    try:
        output, _ = other.communicate(timeout=120)
    finally:
        other.kill()
    assert other.returncode == 0, output
    assert set(states(tmp_path).values()) == {"COMPLETE"}
    line = f".best_model.lock: process {frozen.pid} of host "
    assert re.search(f"warning: .*{re.escape(line)}.* has it locked and does not go on", output)
    assert len(re.findall("warning: .*does not go on", output)) == 1  # of two trials
    assert "best_model/ is not the best: " in output
    assert "Traceback" not in output
    assert max(entry["max_acc"] for entry in list_acc(tmp_path)) == 0.8
    (kept,) = tmp_path.glob("runs/*/trial_00001/attempt_*/temp_model/*")
    assert kept.read_text() == "1 2"
    if is_woken:
        os.kill(frozen.pid, signal.SIGCONT)
        woken, _ = frozen.communicate(timeout=60)
        assert frozen.returncode == 0, woken
    else:
        frozen.kill()
        frozen.wait()
        again = run("rml-optimize", *more)
        assert again.returncode == 0, again.stdout + again.stderr
    assert stored(tmp_path) == 1
    assert (tmp_path / "best_model/best_model_file.pt").read_text() == "1 2"
    assert list(tmp_path.glob("runs/*/trial_*/attempt_*/temp_model/*")) == []
