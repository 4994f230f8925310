"""Searches with a budget of wall time, with a stand-in worker."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from support import (
    BIN,
    Run,
    clean_environment,
    list_acc,
    one_error,
    optimize,
    standin_settings,
    start,
    wait_for,
)

from hpo.keys import BUDGET, END
from trainer import rundir

ABLE = {"capabilities": ["checkpoints.resume", "checkpoints.pause_after", "--serve"]}
DYING = Path(__file__).with_name("dying_driver.py")
LATE_S = 30  # a test's machine may be busy
TOLD = {"COMPLETE", "PRUNED"}


def search(folder: Path, discs: Path, *extra: object, **settings: object) -> list[str]:
    worker = standin_settings(folder, ABLE | settings)
    common = ("--sampler", "random", "--jobs", 1, "--worker", worker, "--num-epochs", 9)
    return optimize(discs, *common, *extra)


def run_here(folder: Path, arguments: list[str]) -> str:
    result = subprocess.run(
        [BIN / "rml-optimize", *arguments],
        cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def study_of(folder: Path) -> optuna.Study:
    storage = f"sqlite:///{folder / 'rml_optimize.db'}"
    return optuna.load_study(study_name=None, storage=storage)


def budget_of(folder: Path) -> dict[str, Any]:
    budget: dict[str, Any] = study_of(folder).user_attrs[BUDGET]
    return budget


def check_told(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """Check that all trials are told, and that the best one's model is there.

    On a busy machine the time may be over before a trial's first epoch: then it has failed.
    """
    trials = study_of(folder).get_trials()
    for trial in trials:
        is_failed = trial.state.name == "FAIL"
        assert is_failed or trial.state.name in TOLD
        assert not is_failed or trial.user_attrs[END]["end"] == "cut off"
    entries = list_acc(folder)
    assert len(entries) == sum(trial.state.name in TOLD for trial in trials)
    best = max(entries, key=lambda entry: entry["max_acc"])  # type: ignore[arg-type, return-value]
    model = json.loads((folder / "best_model/trial.json").read_text())
    assert (model["trial"], model["dice_dataset"]) == (best["number"], best["max_acc"])
    return trials


def states_on_disk(folder: Path) -> list[Path]:
    return [*folder.glob(f"runs/*/trial_*/attempt_*/{rundir.CHECKPOINTS}/{rundir.RESUME}")]


def wait_until_over(folder: Path) -> None:
    budget = budget_of(folder)
    time.sleep(max(0.0, budget["began"] + 3600 * budget["hours"] - time.time()) + 0.1)


def test_search_ends_by_its_hours_and_goes_on_with_more(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    arguments = search(tmp_path, discs, epoch_s=0.1)
    began = time.time()
    output = run_here(tmp_path, [*arguments, "--hours", "0.002"])
    assert began <= budget_of(tmp_path)["began"] <= time.time()
    assert 4 < time.time() - began < 7.2 + LATE_S  # of 7.2 s
    trials = check_told(tmp_path)
    assert {len(trial.intermediate_values) for trial in trials} <= {*range(1, 10)}
    assert "as many as fit into the time" in output
    assert "of 0.002 h left, ends about " in output
    assert "1000000" not in output
    assert "nothing more fits into the 0.002 h" in output
    assert not states_on_disk(tmp_path)
    status = run("rml-study", "status", "--json")
    assert status.returncode == 0
    shown = json.loads(status.stdout)
    assert (shown["status"], shown["num_trials"]) == ("finished", None)
    assert shown["budget"]["hours"] == 0.002
    assert shown["budget"]["left_seconds"] < 2
    assert "budget: " in run("rml-study", "status").stdout

    wait_until_over(tmp_path)
    again = run_here(tmp_path, [*arguments, "--hours", "0.002"])
    assert "going on needs more, such as --hours 1" in again
    assert [trial.state for trial in study_of(tmp_path).trials] == [t.state for t in trials]

    before = budget_of(tmp_path)
    process = start(tmp_path, *arguments, "--hours", "1")
    wait_for(lambda: len(study_of(tmp_path).trials) > len(trials), LATE_S)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert run("rml-study", "status").returncode == 4  # there is time left
    after = budget_of(tmp_path)
    assert (after["began"], after["hours"]) == (before["began"], 1)
    grown = study_of(tmp_path).trials
    assert [trial.values for trial in grown[: len(trials)]] == [trial.values for trial in trials]


def test_trial_that_runs_when_the_time_is_over_counts_with_its_best_epoch(
    discs: Path, tmp_path: Path
) -> None:
    # Nine epochs of 0.9 s don't fit into 5.4 s: the first trial goes on as far as it gets.
    curve = {"0": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]}
    output = run_here(
        tmp_path, search(tmp_path, discs, "--hours", 0.0015, epoch_s=0.9, curve=curve)
    )
    first = check_told(tmp_path)[0]
    assert first.user_attrs[END]["end"] == "out of time"
    assert "--hours" in first.user_attrs[END]["message"]
    assert 1 <= len(first.intermediate_values) < 9
    assert first.value == max(first.intermediate_values.values())
    assert "no trial could be trained to its end in that time; this is the best so far" in output


@pytest.mark.parametrize("killed", [signal.SIGTERM, signal.SIGKILL])
def test_search_that_is_taken_up_after_its_time_keeps_the_best_model(
    discs: Path, tmp_path: Path, killed: signal.Signals
) -> None:
    arguments = search(tmp_path, discs, "--hours", 0.0015, "--lease", 1, epoch_s=0.4)
    process = start(tmp_path, *arguments)
    wait_for(lambda: states_on_disk(tmp_path))
    process.send_signal(killed)
    process.communicate(timeout=30)
    wait_until_over(tmp_path)
    ran = {*tmp_path.glob("runs/*/trial_*/attempt_*/worker.log")}
    output = run_here(tmp_path, arguments)
    check_told(tmp_path)
    assert {*tmp_path.glob("runs/*/trial_*/attempt_*/worker.log")} == ran  # nothing was trained
    assert "nothing more fits" in output


def test_trial_that_was_whole_when_its_driver_died_is_complete(
    discs: Path, tmp_path: Path
) -> None:
    arguments = search(tmp_path, discs, "--hours", 0.002, "--lease", 1)
    killed = subprocess.run(
        [sys.executable, DYING, "before told", tmp_path / "moment", *arguments],
        cwd=tmp_path, env=clean_environment(), capture_output=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    wait_until_over(tmp_path)
    run_here(tmp_path, arguments)
    whole = [trial for trial in check_told(tmp_path) if len(trial.intermediate_values) == 9]
    assert [trial.state.name for trial in whole] == ["COMPLETE"]


def test_killed_driver_s_successor_keeps_the_first_deadline(discs: Path, tmp_path: Path) -> None:
    arguments = search(tmp_path, discs, "--lease", 1, epoch_s=0.1)
    process = start(tmp_path, *arguments, "--hours", "0.0025")
    wait_for(lambda: len(states_on_disk(tmp_path)) >= 2)
    process.kill()
    process.communicate(timeout=30)
    before = budget_of(tmp_path)
    run_here(tmp_path, [*arguments, "--hours", "0.002"])  # the most that was asked for holds
    after = budget_of(tmp_path)
    assert after["began"] == before["began"]
    assert after["hours"] == 0.0025
    assert time.time() < after["began"] + 9 + LATE_S
    check_told(tmp_path)


def test_two_drivers_share_the_time(discs: Path, tmp_path: Path) -> None:
    arguments = search(tmp_path, discs, "--hours", 0.003, epoch_s=0.1)
    drivers = [start(tmp_path, *arguments) for _ in range(2)]
    outputs = [driver.communicate(timeout=120)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], outputs
    assert time.time() < budget_of(tmp_path)["began"] + 10.8 + LATE_S
    trials = check_told(tmp_path)
    assert [trial.number for trial in trials] == list(range(len(trials)))


def test_time_that_is_over_before_the_first_epoch_fails_nothing_but_the_trial(
    discs: Path, tmp_path: Path
) -> None:
    output = run_here(tmp_path, search(tmp_path, discs, "--hours", 0.001, epoch_s=60))
    trial = study_of(tmp_path).trials[0]
    assert trial.state.name == "FAIL"
    assert trial.user_attrs[END]["end"] == "cut off"
    assert "no trial is finished" in output


def test_search_that_pauses_no_trials_starts_none_that_cannot_end(
    discs: Path, tmp_path: Path
) -> None:
    # A trial takes a second and more: the hours hold four at the most, and never a part of one.
    run_here(
        tmp_path, search(tmp_path, discs, "--hours", 0.0015, "--pruner", "none", epoch_s=0.12)
    )
    trials = check_told(tmp_path)
    assert 1 < len(trials) <= 4
    assert [trial.state.name for trial in trials[:-1]] == ["COMPLETE"] * (len(trials) - 1)


def test_num_trials_is_the_most_where_both_are_given(discs: Path, tmp_path: Path) -> None:
    output = run_here(tmp_path, search(tmp_path, discs, "--hours", 5, "--num-trials", 2))
    assert len(check_told(tmp_path)) == 2
    assert "nothing more fits" not in output
    assert "it may take 5 h" in output


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf"])
def test_hours_that_are_none_are_refused(
    discs: Path, run: Run, tmp_path: Path, hours: str
) -> None:
    result = run("rml-optimize", *search(tmp_path, discs, "--hours", hours))
    assert "--hours: expected a number above 0" in one_error(result)


def test_dry_run_says_what_disk_it_takes_and_what_is_known_of_the_time(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    arguments = search(tmp_path, discs, "--dry-run", "--layers", "unet:width=16,depth=3")
    plain = run("rml-optimize", *arguments, "--num-trials", 12)
    assert plain.returncode == 0, plain.stdout + plain.stderr
    # One runs, four of twelve wait: each with its state, 3 times the weights, and its best model.
    shown = " ".join(plain.stdout.replace("|", " ").split())
    assert "disk about 5 MB: 1 MB for each trial that runs or is paused" in shown
    assert "time no limit" in shown
    timed = run("rml-optimize", *arguments, "--hours", "8")
    shown = " ".join(timed.stdout.replace("|", " ").split())
    assert "disk 1 MB for each trial" in shown
    assert "time 8 h since the study's first start; how many trials fit is estimated" in shown
    assert not (tmp_path / "rml_optimize.db").exists()


@pytest.mark.parametrize(
    ("lines", "options", "trials"),
    [
        ("hours = 2", (), "as many as fit into the time"),
        ("hours = 2\nnum_trials = 7", (), "7 in the study"),
        ("num_trials = 7", ("--hours", "3"), "as many as fit into the time"),
        ("num_trials = 7", ("--hours", "3", "--num-trials", "9"), "9 in the study"),
    ],
)
def test_study_file_has_hours_too(
    discs: Path, run: Run, tmp_path: Path, lines: str, options: tuple[str, ...], trials: str
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "study.toml").write_text(
        f'title = "own"\n{lines}\nlayers = "unet:width=4,depth=2"\nresize = [32, 32]\n'
        '[[search]]\nkey = "loss.function"\nvalues = ["BCE", "Dice"]\n'
    )
    arguments = ("--study", folder, "--data", discs, "--no-gpu", "--dry-run", *options)
    result = run("rml-optimize", *map(str, arguments))
    assert result.returncode == 0, result.stdout + result.stderr
    assert trials in result.stdout
    assert ("no limit" in result.stdout) == ("hours" not in lines and not options)
