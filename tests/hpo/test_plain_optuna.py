"""A plain Optuna script beside our drivers in one study: it asks, tells, enqueues and reads."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from support import BIN, Run, clean_environment, optimize, standin_settings, wait_for

RATE = "optimizer.learning_rate"
SPACE = ("--search", f"{RATE}=0.001,0.01", "--set", "optimizer.type=SGD", "--loss", "dice")


@pytest.fixture
def storage(url: str) -> Iterator[RDBStorage]:
    """The database as a script opens it that knows nothing of us."""
    storage = RDBStorage(url)
    yield storage
    storage.remove_session()
    storage.engine.dispose()


def start(discs: Path, folder: Path, url: str, *extra: object) -> subprocess.Popen[str]:
    arguments = optimize(
        discs, "--worker", standin_settings(folder, {"epoch_s": 0.1, "scale": 0.5}),
        "--lease", 1, *SPACE, *extra,
    )  # fmt: skip
    return subprocess.Popen(
        [BIN / "rml-optimize", *arguments], cwd=folder, text=True, stdout=subprocess.PIPE,
        env=clean_environment() | {"RML_STORAGE": url}, stderr=subprocess.STDOUT,
    )  # fmt: skip


def study_of(storage: RDBStorage) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=storage)


def test_trials_that_a_script_asks_for_stay_its_own(
    discs: Path, tmp_path: Path, url: str, storage: RDBStorage
) -> None:
    process = start(discs, tmp_path, url, "--num-trials", 12, "--jobs", 1)
    wait_for(lambda: optuna.get_all_study_names(storage), 60)
    wait_for(lambda: study_of(storage).get_trials(states=(optuna.trial.TrialState.COMPLETE,)), 60)
    peer = study_of(storage)
    asked = [peer.ask() for _ in range(3)]
    for trial in asked:
        trial.suggest_categorical(RATE, [0.001, 0.01])
        trial.report(0.9, 1)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    for trial in asked:  # a lease is long over
        peer.tell(trial, 0.25)
    trials = peer.get_trials()
    theirs = {trial.number for trial in asked}
    assert [trials[number].value for number in sorted(theirs)] == [0.25] * 3
    ours = [trial for trial in trials if trial.number not in theirs]
    assert [trial.state.name for trial in ours] == ["COMPLETE"] * 12
    assert {trial.user_attrs["attempt"] for trial in ours} == {1}


def test_values_that_a_script_enqueues_are_tried(
    discs: Path, tmp_path: Path, url: str, storage: RDBStorage, run: Run
) -> None:
    process = start(discs, tmp_path, url, "--num-trials", 1)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    peer = study_of(storage)
    peer.enqueue_trial({RATE: 0.01})
    # Somebody's idea of its curve is no value of ours.
    peer.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.WAITING,
                                             intermediate_values={1: 0.9, 77: 0.99}))  # fmt: skip
    process = start(discs, tmp_path, url, "--num-trials", 3)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    trials = peer.get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert trials[1].params == {RATE: 0.01}
    assert sorted(trials[2].intermediate_values) == [1, 2, 3]
    assert max(trials[2].intermediate_values.values()) < 0.6
    assert "0.99" not in output


def test_enqueued_value_outside_the_space_fails_its_trial_alone(
    discs: Path, tmp_path: Path, url: str, storage: RDBStorage
) -> None:
    process = start(discs, tmp_path, url, "--num-trials", 1)
    assert process.wait(120) == 0
    process.communicate()
    peer = study_of(storage)
    bad = [{RATE: 0.5}, {RATE: "Lion"}, {RATE: None}, {RATE: [1]}, {"learning_rate": 0.01}]
    for values in bad:
        peer.enqueue_trial(values)
    process = start(discs, tmp_path, url, "--num-trials", 2, "--max-failed", 1)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert [trial.state.name for trial in peer.get_trials()] == [
        "COMPLETE", *["FAIL"] * len(bad), "COMPLETE",
    ]  # fmt: skip
    for text in (f"{RATE}: 0.5 is not in the search space (0.001, 0.01)", "'Lion'",
                 "learning_rate: no such"):  # fmt: skip
        assert text in output
    assert output.count("is not in the search space") == 4
