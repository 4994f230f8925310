"""A plain Optuna script beside our drivers in one study: it asks, tells, enqueues and reads."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from support import (
    BIN,
    Run,
    clean_environment,
    list_acc,
    optimize,
    standin_settings,
    wait_for,
)

from hpo.store.lease import LeaseManager
from hpo.store.study import best_trial

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


def test_script_s_best_trial_keeps_nobody_from_the_best_model(
    discs: Path, tmp_path: Path, url: str, storage: RDBStorage, run: Run
) -> None:
    honest = ("--select-on", "validation", "--jobs", 1, "--seed", 1)
    process = start(discs, tmp_path, url, "--num-trials", 1, *honest)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    peer = study_of(storage)
    trial = peer.ask()
    trial.suggest_categorical(RATE, [0.001, 0.01])
    trial.report(0.95, 1)
    peer.tell(trial, 0.9)
    process = start(discs, tmp_path, url, "--num-trials", 4, *honest)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    ours = [each for each in peer.trials if each.number != trial.number]
    best = max(ours, key=lambda each: (each.value, -each.number))
    assert f"best trial: number {best.number}, of 4 trials" in output
    assert "Optuna's best is trial 1 with 0.9000, which was not made by rml-optimize" in output
    assert "best_model/ is" not in output
    assert "on the 5 test images, used for this only" in output
    assert json.loads((tmp_path / "best_model/trial.json").read_text())["trial"] == best.number
    assert json.loads((tmp_path / "best_model/test.json").read_text())["trial"] == best.number
    entries = {entry["number"]: entry for entry in list_acc(tmp_path)}
    assert len(entries) == 4
    scores = {number: entry["max_acc"] for number, entry in entries.items()}
    assert scores.pop(trial.number) is None
    assert max(scores, key=lambda number: (scores[number], -number)) == best.number
    for command in ("status", "best"):
        shown = run("rml-study", command, "--json", RML_STORAGE=url)
        entry = json.loads(shown.stdout)
        found = entry["best"] if command == "status" else entry
        assert (found["trial"], found["dice_dataset"]) == (best.number, best.value)
        assert entry["best_of_optuna"] == {"trial": 1, "dice_dataset": 0.9, "is_foreign": True}
        text = run("rml-study", command, RML_STORAGE=url).stdout
        assert "trial 1 with 0.9000, which was not made by rml-optimize" in text
    listed = json.loads(run("rml-study", "list", "--json", RML_STORAGE=url).stdout)
    assert listed[0]["best dice_dataset"] == best.value
    foreign = json.loads(run("rml-study", "show", "--trial", 1, "--json", RML_STORAGE=url).stdout)
    assert (foreign["dice_dataset"], foreign["foreign_value"]) == (None, 0.9)
    exported = run("rml-study", "export", "--to", "out", RML_STORAGE=url)
    assert f"(trial {best.number})" in exported.stdout, exported.stderr


def test_trial_that_was_given_back_and_a_script_has_told_is_the_script_s(
    discs: Path, tmp_path: Path, url: str, storage: RDBStorage
) -> None:
    process = start(discs, tmp_path, url, "--num-trials", 1)
    assert process.communicate(timeout=120) and process.returncode == 0
    peer = study_of(storage)
    lease_manager = LeaseManager(storage, peer._study_id, lease_s=60)
    lease = lease_manager.claim(2)
    assert lease is not None
    assert lease_manager.report(lease, {1: 0.99})
    lease_manager.give_back(lease)
    lease_manager.close()
    asked = peer.ask()
    peer.tell(asked, 0.99)
    assert asked.number == 1
    assert best_trial(peer).number == 0


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
