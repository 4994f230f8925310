"""All drivers of a study use the total that they have agreed on, also when it starts over."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
from support import (
    Run,
    list_acc,
    one_error,
    optimize,
    standin_settings,
    start,
    states,
    wait_for,
)

from hpo.keys import NUM_TRIALS


def test_study_that_starts_over_has_the_new_total(
    discs: Path, run: Run, tmp_path: Path, url: str
) -> None:
    worker = standin_settings(tmp_path, {"end": {"0": 2}})
    arguments = optimize(
        discs, "--worker", worker, "--jobs", 1, "--study-name", "same", "--storage", url
    )
    one_error(run("rml-optimize", *arguments, "--num-trials", 40))
    standin_settings(tmp_path, {})
    result = run("rml-optimize", *arguments, "--num-trials", 4, "--optimizers", "adam")
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(list_acc(tmp_path)) == 4
    assert "| 4/4 trials" in result.stdout
    status = run("rml-study", "status", "--storage", url)
    assert "4 of 4 finished" in status.stdout


def test_driver_with_a_smaller_number_uses_the_studys(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {"end": {"all": [9, 9, 9]}, "epoch_s": 0.05})
    arguments = optimize(discs, "--worker", worker, "--jobs", 1, "--max-retries", 0)
    one_error(run("rml-optimize", *arguments, "--num-trials", 40), code=1)
    num_failed = len(states(tmp_path))
    standin_settings(tmp_path, {"end": {str(number): 60 + number for number in range(20)}})
    result = run("rml-optimize", *arguments, "--num-trials", 4)
    assert "the study has 40 trials; --num-trials 4 does not lower it" in result.stdout
    assert "40 in the study" in result.stdout  # the table of settings
    assert "/40 trials" in result.stdout
    assert not re.search(r"\d/4 trials", result.stdout)
    assert "--max-failed 10" in one_error(result, code=1)  # a quarter of the study's
    assert len(states(tmp_path)) == num_failed + 10


def test_a_number_of_trials_that_lowers_nothing_is_said_to(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {})
    arguments = optimize(discs, "--worker", worker, "--jobs", 1, "--num-epochs", 1)
    result = run("rml-optimize", *arguments, "--hours", 0.002)
    assert result.returncode == 0, result.stdout + result.stderr
    told = "the study was begun without a limit of trials; --num-trials 1 does not lower it"
    for extra in ((), ("--dry-run",)):
        result = run("rml-optimize", *arguments, "--num-trials", 1, "--hours", 0.002, *extra)
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.count(told) == 1
        assert "as many as fit into the time" in result.stdout
    assert "lower it" not in run("rml-optimize", *arguments, "--hours", 0.002).stdout


def test_running_driver_hears_of_a_larger_total(discs: Path, tmp_path: Path) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.3})
    arguments = optimize(discs, "--worker", worker, "--jobs", 1, "--num-epochs", 4)
    process = start(tmp_path, *arguments, "--num-trials", "4")
    wait_for(lambda: list(tmp_path.glob("runs/*/trial_00000/attempt_1/out_test.txt")), 60)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/rml_optimize.db")
    study.set_user_attr(NUM_TRIALS, 7)  # as a driver that asks for 7 does at its first claim
    output, _ = process.communicate(timeout=120)
    assert len(list_acc(tmp_path)) == 7, output
    assert "7/7 trials" in output
    assert not re.search(r"[5-7]/4 trials", output), output
