"""Predictions are written under names of their own, and what killed runs have left goes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from support import clean_environment
from worker import Worker

from trainer import rundir
from trainer.data.slicing import Slice
from trainer.evaluation.assembly import Assembler
from trainer.evaluation.predictions import PredictionWriter

LATER_S = 2 * rundir.YOUNG_S
KILLED = """
import os, signal
from pathlib import Path
import numpy as np
from trainer.evaluation.predictions import PredictionWriter
with PredictionWriter(Path("p")) as writer:
    writer.write(["a.png"], [np.ones((1, 4, 4), np.float32)])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def leave(path: Path, *, age_s: float = LATER_S) -> Path:
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_killed_run_s_half_file_goes_with_the_next(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=tmp_path, env=clean_environment(), check=False
    )
    assert killed.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "p").iterdir()
    leave(left)
    with PredictionWriter(tmp_path / "p") as writer:
        writer.write(["b.png"], [np.zeros((1, 4, 4), np.float32)])
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["output_1.h5"]
    with h5py.File(tmp_path / "p/output_1.h5") as file:
        assert list(file) == ["b.png"]


def test_file_that_somebody_writes_still_stays(tmp_path: Path) -> None:
    young = leave(tmp_path / ".output_1.h5.aa.tmp", age_s=0)
    held = leave(tmp_path / ".output_1.h5.bb.tmp")
    other = leave(tmp_path / ".output_2.h5.cc.tmp")
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        rundir.remove_abandoned(tmp_path / "output_1.h5")
    assert sorted(tmp_path.iterdir()) == [young, held, other]
    rundir.remove_abandoned(tmp_path / "output_1.h5")
    assert sorted(tmp_path.iterdir()) == [young, other]


def test_hosts_with_the_same_process_id_do_not_collide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 7)
    first, second = PredictionWriter(tmp_path), PredictionWriter(tmp_path)
    with first:
        first.write(["a.png"], [np.ones((1, 4, 4), np.float32)])
        with second:
            second.write(["b.png"], [np.ones((1, 4, 4), np.float32)])
    with h5py.File(tmp_path / "output_1.h5") as file:
        assert list(file) == ["a.png"]  # who is ready last, whole
    assert [path.name for path in tmp_path.iterdir()] == ["output_1.h5"]


def test_assembled_predictions_leave_nothing_either(tmp_path: Path) -> None:
    left = leave(tmp_path / ".whole.h5.aa.tmp")
    with Assembler(tmp_path / "whole.h5", list[Slice](), is_half=False):
        assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["whole.h5"]


def test_prediction_of_a_run_leaves_its_file_alone(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    leave(tmp_path / "p/.output_1.h5.aa.tmp")
    worker(data__test_output_path="p").succeeded()
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["output_1.h5"]
