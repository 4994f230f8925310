"""What a search does when its study, its folder or its worker's life is taken from under it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from support import (
    Run,
    clean_environment,
    list_acc,
    optimize,
    standin_settings,
    start,
    states,
    wait_for,
    workers_of,
)

from hpo.store.database import close_storage, open_storage

NUM_EPOCHS = 6
IMPATIENT = """
import sys
import hpo.run.watch
from hpo.cli import main
hpo.run.watch.END_GRACE_S = 2.0
sys.exit(main(sys.argv[1:]))
"""


def delete(url: str, name: str) -> None:
    """Delete a study, for good: what is inserted meanwhile undoes one try."""
    storage = open_storage(url)
    while name in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=name, storage=storage)
    close_storage(storage)


def test_deleted_study_is_one_clear_line(discs: Path, tmp_path: Path, url: str) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.3})
    process = start(
        tmp_path, *optimize(discs, "--num-trials", 20, "--worker", worker, "--jobs", 2),
        "--num-epochs", "5", "--storage", url, "--study-name", "gone",
    )  # fmt: skip
    wait_for(lambda: list(tmp_path.glob("runs/*/trial_00002/attempt_1/out_test.txt")), 60)
    delete(url, "gone")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert "Traceback" not in output
    (error,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert "'gone' was deleted" in error, output
    assert not workers_of(tmp_path)


@pytest.mark.parametrize("capabilities", [[], ["--serve"]])
def test_worker_that_freezes_at_its_end_is_ended(
    discs: Path, tmp_path: Path, capabilities: list[str]
) -> None:
    worker = standin_settings(tmp_path, {"freezes": [0], "capabilities": capabilities})
    arguments = optimize(discs, "--num-trials", 2, "--worker", worker, "--jobs", 1)
    result = subprocess.run(
        [sys.executable, "-c", IMPATIENT, *arguments], cwd=tmp_path, env=clean_environment(),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert states(tmp_path) == {0: "COMPLETE", 1: "COMPLETE"}
    assert "did not end" in result.stdout
    assert [entry["epochs"] for entry in list_acc(tmp_path)] == [3, 3]
    assert not workers_of(tmp_path)


def test_worker_that_does_its_last_epoch_again_is_waited_for(discs: Path, tmp_path: Path) -> None:
    settings = {"epoch_s": 1.8, "state_every": 2, "crash_at": {"0": [3]}}
    worker = standin_settings(tmp_path, settings | {"capabilities": ["checkpoints.resume"]})
    arguments = optimize(discs, "--num-trials", 1, "--worker", worker, "--pruner", "none")
    impatient = IMPATIENT.replace("2.0", "1.0")
    result = subprocess.run(
        [sys.executable, "-c", impatient, *arguments], cwd=tmp_path, env=clean_environment(),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "once more" in result.stdout
    # Its first attempt had logged all epochs, and its state was of the second.
    assert [(entry["epochs"], entry["state"]) for entry in list_acc(tmp_path)] == [(3, "COMPLETE")]


@pytest.mark.parametrize("engine", ["stand-in", "ours"])
def test_removed_run_folder_fails_no_trial(discs: Path, tmp_path: Path, engine: str) -> None:
    worker = ["--worker", standin_settings(tmp_path, {"epoch_s": 0.4})]
    if engine == "ours":
        worker = ["--launcher", "local"]
    process = start(
        tmp_path, *optimize(discs, "--num-trials", 3, *worker, "--jobs", 1, "--lease", 2),
        "--num-epochs", str(NUM_EPOCHS), "--select-on", "validation", "--pruner", "none",
    )  # fmt: skip
    wait_for(lambda: list(tmp_path.glob("runs/*/trial_00001/attempt_1/out_test.txt")), 120)
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert set(states(tmp_path).values()) == {"COMPLETE"}, output
    assert "was removed" in output
    assert "used for this only" in output
    assert all(entry["epochs"] == NUM_EPOCHS for entry in list_acc(tmp_path))


def test_run_folder_is_made_again_with_an_earlier_pruner_and_without_the_study_it_is_like(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.4})
    arguments = optimize(discs, "--worker", worker, "--jobs", 1, "--num-epochs", 6)
    first = run("rml-optimize", *arguments, "--num-trials", "1", "--pruner", "median")
    assert first.returncode == 0, first.stderr
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    shutil.copy(tmp_path / "rml_optimize.db", earlier)
    like = ("--like", str(earlier))
    process = start(tmp_path, *arguments, *like, "--num-trials", "3", "--lease", "2")
    wait_for(lambda: list(tmp_path.glob("runs/*/trial_00001/attempt_1/out_test.txt")), 120)
    shutil.rmtree(earlier)
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "was removed" in output
    assert len(list_acc(tmp_path)) == 3
