"""What a search survives: killed drivers in real training, full disks, an image that goes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from sqlalchemy import create_engine, text
from support import (
    BIN,
    HASTY,
    Run,
    clean_environment,
    list_acc,
    optimize,
    require,
    standin_settings,
    start,
    states,
    wait_for,
)

NUM_EPOCHS = 200  # of a few milliseconds each
KILLS_ITS_DRIVER = """#!/bin/sh
case "$1" in --config=*) ;; *) exit 64 ;; esac
case "$PWD" in */trial_00000/*) kill -9 $(cut -d" " -f4 /proc/$PPID/stat); exit 1 ;; esac
echo "1 0.1 0.5 0.7" > out_test.txt
"""
GOES_AWAY = """#!/bin/sh
case "$1" in --config=*) ;; *) exit 64 ;; esac
case "$PWD" in */trial_00000/*) mv "$0" "$0.away" ;; esac
echo "1 0.1 0.5 0.7" > out_test.txt
"""


def script(path: Path, content: str) -> str:
    path.write_text(content)
    path.chmod(0o755)
    return str(path)


def lines_of(folder: Path, attempt: int) -> int:
    logs = list(folder.glob(f"runs/*/trial_00000/attempt_{attempt}/out_test.txt"))
    return logs[0].read_text().count("\n") if logs else 0


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Return what a driver prints until a line has these words."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if words in line:
            return seen
    raise AssertionError(seen)


def curve(folder: Path) -> dict[int, float]:
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder}/rml_optimize.db")
    return study.trials[0].intermediate_values


def test_killed_driver_s_training_is_gone_on_with_to_the_same_curve(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    arguments = optimize(
        discs, "--num-trials", 1, "--num-epochs", NUM_EPOCHS, "--lease", 2, "--pruner", "none",
        "--worker", f"{sys.executable} {HASTY}",
    )  # fmt: skip
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    for folder in (alone, killed):
        folder.mkdir()
    assert run("rml-optimize", *arguments, cwd=alone).returncode == 0
    process = start(killed, *arguments)
    wait_for(lambda: list(killed.glob("runs/*/trial_00000/attempt_1/temp_model/resume.pt")), 120)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert states(killed) == {0: "RUNNING"}
    result = run("rml-optimize", *arguments, cwd=killed)
    assert result.returncode == 0, result.stdout + result.stderr
    (log,) = killed.glob("runs/*/trial_00000/attempt_2/worker.log")
    found = re.search(r"Resuming after epoch (\d+)", log.read_text())
    assert found is not None
    assert 0 < int(found[1]) < NUM_EPOCHS
    assert states(killed) == {0: "COMPLETE"}
    assert curve(killed) == curve(alone)
    assert len(curve(killed)) == NUM_EPOCHS


def test_stopped_driver_s_training_loses_no_epoch(discs: Path, run: Run, tmp_path: Path) -> None:
    arguments = optimize(
        discs, "--num-trials", 1, "--num-epochs", 100, "--launcher", "local", "--pruner", "none"
    )
    process = start(tmp_path, *arguments)
    wait_for(lambda: lines_of(tmp_path, 1) >= 3, 120)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    reached = lines_of(tmp_path, 1)
    assert reached < 100
    result = run("rml-optimize", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    (log,) = tmp_path.glob("runs/*/trial_00000/attempt_2/worker.log")
    assert f"Resuming after epoch {reached}\n" in log.read_text()
    assert lines_of(tmp_path, 2) == len(curve(tmp_path)) == 100
    assert not list(tmp_path.glob("runs/*/trial_00000/attempt_2/temp_model"))


def test_trial_that_kills_every_driver_fails(discs: Path, run: Run, tmp_path: Path) -> None:
    worker = script(tmp_path / "worker.sh", KILLS_ITS_DRIVER)
    arguments = optimize(
        discs, "--num-trials", 1, "--worker", worker, "--num-epochs", 1, "--jobs", 1,
        "--lease", 1, "--max-retries", 0,
    )  # fmt: skip
    assert run("rml-optimize", *arguments).returncode == -signal.SIGKILL
    engine = create_engine(f"sqlite:///{tmp_path}/rml_optimize.db")
    with engine.begin() as connection:  # two more deaths, without their seconds
        connection.execute(
            text("INSERT INTO trial_user_attributes (trial_id, key, value_json) "
                 "SELECT trial_id, 'deaths', '[2, 0]' FROM trials")
        )  # fmt: skip
    engine.dispose()
    assert run("rml-optimize", *arguments).returncode == -signal.SIGKILL
    result = run("rml-optimize", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 drivers in a row died with this trial" in result.stdout
    assert states(tmp_path) == {0: "FAIL", 1: "COMPLETE"}


def test_worker_that_cannot_be_started_for_a_while_is_waited_for(
    discs: Path, tmp_path: Path
) -> None:
    worker = tmp_path / "worker.sh"
    script(worker, GOES_AWAY)
    process = start(
        tmp_path, *optimize(discs, "--num-trials", 3, "--worker", worker, "--num-epochs", 1),
        "--jobs", "1",
    )  # fmt: skip
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if "tries again in" in line:
            worker.with_name("worker.sh.away").rename(worker)
            break
    seen += process.communicate(timeout=120)[0]
    assert process.returncode == 0, seen
    assert states(tmp_path) == {0: "COMPLETE", 1: "COMPLETE", 2: "COMPLETE"}


@pytest.mark.slow
def test_worker_that_stays_away_ends_the_search(discs: Path, run: Run, tmp_path: Path) -> None:
    worker = script(tmp_path / "worker.sh", GOES_AWAY)
    result = run(
        "rml-optimize", *optimize(discs, "--num-trials", 3, "--worker", worker, "--jobs", 1),
    )  # fmt: skip
    assert result.returncode == 2, result.stdout + result.stderr
    assert "cannot start the worker" in result.stderr
    assert states(tmp_path) == {0: "COMPLETE", 1: "WAITING"}


def test_full_disk_is_waited_for_and_leaves_the_best_model_whole(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(runs)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        require("mount", "only root may mount a small disk")
    try:
        arguments = optimize(
            discs,
            "--num-epochs",
            1,
            "--max-retries",
            0,
            "--max-failed",
            1,
            "--launcher",
            "local",
            "--jobs",
            1,
        )
        first = run("rml-optimize", *arguments, "--num-trials", 1)
        assert first.returncode == 0, first.stdout + first.stderr
        before = (tmp_path / "best_model/trial.json").read_text()
        with (runs / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(4096))
        os.truncate(runs / "filler", (runs / "filler").stat().st_size - 24 * 1024)
        second = start(tmp_path, *arguments, "--num-trials", "2")
        seen = read_until(second, "is full")
        wait_for(lambda: states(tmp_path) == {0: "COMPLETE", 1: "WAITING"})
        second.terminate()  # as it waits, it ends at once
        seen += second.communicate(timeout=60)[0]
        assert second.returncode == 143, seen
        assert (tmp_path / "best_model/trial.json").read_text() == before
        third = start(tmp_path, *arguments, "--num-trials", "2")
        seen += read_until(third, "is full")
        (runs / "filler").unlink()
        seen += third.communicate(timeout=120)[0]
        assert third.returncode == 0, seen
        assert "Traceback" not in seen
    finally:
        subprocess.run(["umount", "--lazy", str(runs)], check=True)
    assert states(tmp_path) == {0: "COMPLETE", 1: "COMPLETE"}
    assert len(list_acc(tmp_path)) == 2
    again = run("rmldnn", "--config=best_model/config.json")
    assert again.returncode == 0, again.stderr


def test_of_two_searches_at_once_one_goes_on(discs: Path, tmp_path: Path, url: str) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.1})
    processes = [
        subprocess.Popen(
            [BIN / "rml-optimize", *optimize(discs, "--num-trials", 2, "--worker", worker),
             "--study-name", "same", "--search", f"optimizer.learning_rate={space}",
             "--output-dir", str(tmp_path / space)],
            env=clean_environment() | {"RML_STORAGE": url}, cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for space in ("0.001,0.01", "0.002,0.02")
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 2], outputs
    assert "searches something else" in " ".join(outputs[codes.index(2)].split())
    entries = json.loads(
        (tmp_path / ("0.001,0.01", "0.002,0.02")[codes.index(0)] / "list_acc.json").read_text()
    )
    assert [entry["state"] for entry in entries] == ["COMPLETE"] * 2
