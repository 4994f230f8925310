"""Searches in which trials are paused and promoted, with a stand-in worker and the real one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from support import (
    BIN,
    Run,
    clean_environment,
    list_acc,
    optimize,
    standin_settings,
    start,
    states,
    wait_for,
)

from hpo.folders import WorkFolders
from hpo.keys import IDENTITY
from hpo.run.attempt import prepare_attempt
from hpo.run.pausing import Pausing
from hpo.store.claim import Lease
from hpo.store.pausing import KnownTrial
from trainer import rundir
from trainer.direction import Direction

DYING = Path(__file__).with_name("dying_driver.py")
ABLE = {"capabilities": ["checkpoints.resume", "checkpoints.pause_after", "--serve"]}
Facts = list[tuple[str, dict[int, float]]]
MOMENTS = ("pausing", "paused", "promoting", "moved", "telling")


def search(folder: Path, discs: Path, *extra: object, **settings: object) -> list[str]:
    worker = standin_settings(folder, ABLE | settings)
    common = ("--pruner", "asha", "--sampler", "random", "--jobs", 1, "--worker", worker)
    return [*optimize(discs, *common), "--num-epochs", "9", *map(str, extra)]


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{folder / 'rml_optimize.db'}"
    return optuna.load_study(study_name=None, storage=storage).get_trials()


def facts(folder: Path) -> Facts:
    """Return state and curve of each trial."""
    return [(trial.state.name, trial.intermediate_values) for trial in trials_of(folder)]


def best(found: Facts) -> tuple[str, dict[int, float]]:
    return max(found, key=lambda fact: max(fact[1].values()))


def states_on_disk(folder: Path) -> list[str]:
    found = folder.glob(f"runs/*/trial_*/attempt_*/{rundir.CHECKPOINTS}/{rundir.RESUME}")
    return sorted(f"{path.parts[-4]}/{path.parts[-3]}" for path in found)


@pytest.fixture(scope="module")
def undisturbed(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What comes of the search of 10 trials that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result = subprocess.run(
        [BIN / "rml-optimize", *search(folder, discs, "--num-trials", 10)],
        cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    found = facts(folder)
    curves = [curve for _, curve in found]
    assert {1, 9} <= {len(curve) for curve in curves} <= {1, 3, 9}
    assert all(sorted(curve) == list(range(1, len(curve) + 1)) for curve in curves)
    assert [state for state, _ in found] == [
        "COMPLETE" if len(curve) == 9 else "PRUNED" for curve in curves
    ]
    assert sum(len(curve) > 1 for curve in curves) >= 3
    # The best of all that were seen was trained to its end.
    assert max(max(curve.values()) for curve in curves) == max(
        max(curve.values()) for curve in curves if len(curve) == 9
    )
    entries = list_acc(folder)
    assert [entry["max_acc"] for entry in entries] == [max(curve.values()) for curve in curves]
    assert [entry["epochs"] for entry in entries] == [len(curve) for curve in curves]
    assert not states_on_disk(folder)
    best = json.loads((folder / "best_model/trial.json").read_text())
    top = max(entries, key=lambda entry: entry["max_acc"])
    assert (best["trial"], best["dice_dataset"]) == (top["number"], top["max_acc"])
    return found


@pytest.mark.parametrize("moment", MOMENTS)
def test_driver_killed_at_any_moment_loses_nothing_and_counts_nothing_twice(
    discs: Path, run: Run, tmp_path: Path, undisturbed: Facts, moment: str
) -> None:
    arguments = search(tmp_path, discs, "--num-trials", 10, "--lease", 1, "--max-retries", 99)
    killed = subprocess.run(
        [sys.executable, DYING, moment, tmp_path / "moment", *arguments],
        cwd=tmp_path, env=clean_environment(), capture_output=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "moment").exists()
    result = run("rml-optimize", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    found = facts(tmp_path)
    if moment in ("pausing", "moved"):
        # A trial was at hand. It is gone on with once its lease is over; meanwhile others go
        # first, and which go on depends on that. What each scores does not, nor does the winner.
        for (state, curve), (_, before) in zip(found, undisturbed, strict=True):
            assert len(curve) in (1, 3, 9) and sorted(curve) == list(range(1, len(curve) + 1))
            assert state == ("COMPLETE" if len(curve) == 9 else "PRUNED")
            assert all(curve[epoch] == before[epoch] for epoch in curve.keys() & before.keys())
        assert best(found) == best(undisturbed)
    else:
        assert found == undisturbed
    assert not states_on_disk(tmp_path)


def test_stopped_search_shows_its_paused_trials_and_goes_on(
    discs: Path, run: Run, tmp_path: Path, undisturbed: Facts
) -> None:
    arguments = search(tmp_path, discs, "--num-trials", 10, epoch_s=0.2)
    process = start(tmp_path, *arguments)
    wait_for(lambda: len(states_on_disk(tmp_path)) >= 2)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    assert " paused" in output.splitlines()[-2], output
    entries = list_acc(tmp_path)
    assert {entry["state"] for entry in entries} == {"PAUSED"}
    assert all(entry["max_acc"] > 0 for entry in entries)
    status = run("rml-study", "status", "--json")
    assert status.returncode == 4
    counts = json.loads(status.stdout)["states"]
    assert counts["paused"] == len(entries)
    shown = json.loads(run("rml-study", "show", "--trial", "0", "--json").stdout)
    assert shown["state"] == "paused"
    assert "is paused" in run("rml-study", "requeue", "--trial", "0").stderr
    assert run("rml-study", "clean", "--yes").returncode == 0
    result = run("rml-optimize", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert facts(tmp_path) == undisturbed


def test_more_trials_may_be_asked_for_later(discs: Path, run: Run, tmp_path: Path) -> None:
    assert run("rml-optimize", *search(tmp_path, discs, "--num-trials", 4)).returncode == 0
    before = facts(tmp_path)
    assert run("rml-optimize", *search(tmp_path, discs, "--num-trials", 8)).returncode == 0
    after = facts(tmp_path)
    assert after[:4] == before  # what was told stays told
    assert len(after) == 8
    assert {state for state, _ in after} == {"COMPLETE", "PRUNED"}


def test_only_states_that_may_be_needed_stay_on_the_disk(discs: Path, tmp_path: Path) -> None:
    curve = {str(number): [0.9 - number / 20] * 9 for number in range(9)}  # the first is best
    arguments = search(tmp_path, discs, "--num-trials", 9, curve=curve, delay={"8": 60})
    process = start(tmp_path, *arguments)
    wait_for(lambda: list(tmp_path.glob("runs/*/trial_00008/attempt_1/worker.log")), 60)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    reached = {trial.number: len(trial.intermediate_values) for trial in trials_of(tmp_path)}
    beyond = {number for number, epochs in reached.items() if 1 < epochs < 9}
    first = sorted(number for number, epochs in reached.items() if epochs == 1)
    assert len(first) > 3
    kept = {int(each.split("/")[0].removeprefix("trial_")) for each in states_on_disk(tmp_path)}
    # Of those at the first rung only such as are among the best third of nine.
    assert kept - {8} == beyond | {number for number in first if number < 3}


def test_two_drivers_share_the_paused_trials(discs: Path, run: Run, tmp_path: Path) -> None:
    arguments = search(tmp_path, discs, "--num-trials", 12, "--jobs", 2, epoch_s=0.05)
    drivers = [start(tmp_path, *arguments) for _ in range(2)]
    outputs = [driver.communicate(timeout=120)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], outputs
    found = facts(tmp_path)
    assert len(found) == 12
    assert {state for state, _ in found} == {"COMPLETE", "PRUNED"}
    assert all(sorted(curve) == list(range(1, len(curve) + 1)) for _, curve in found)
    assert all(len(curve) in (1, 3, 9) for _, curve in found)
    assert not states_on_disk(tmp_path)


def test_worker_that_cannot_pause_is_pruned_for_good_and_the_user_told(
    discs: Path, run: Run, tmp_path: Path, standin: str
) -> None:
    result = run("rml-optimize", *search(tmp_path, discs, "--num-trials", 4), "--worker", standin)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("cannot go on with a trial that was paused") == 1
    assert set(states(tmp_path).values()) == {"COMPLETE"}


def test_worker_that_cannot_pause_joins_a_study_whose_trials_are(
    discs: Path, run: Run, tmp_path: Path, standin: str
) -> None:
    arguments = search(tmp_path, discs, "--num-trials", 10, "--lease", 2, epoch_s=0.2)
    process = start(tmp_path, *arguments)
    wait_for(lambda: len(states_on_disk(tmp_path)) >= 2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    result = run("rml-optimize", *arguments, "--worker", standin)
    assert result.returncode == 0, result.stdout + result.stderr
    found = facts(tmp_path)
    assert len(found) == 10
    assert {state for state, _ in found} == {"COMPLETE", "PRUNED"}
    assert max(max(curve.values()) for _, curve in found) == max(
        max(curve.values()) for state, curve in found if state == "COMPLETE"
    )


def test_trial_that_is_past_its_rung_is_paused_there(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    unable = search(
        tmp_path, discs, "--num-trials", 4, epoch_s=0.3, capabilities=["checkpoints.resume"]
    )
    process = start(tmp_path, *unable)
    log = "runs/*/trial_00000/attempt_1/out_test.txt"
    wait_for(lambda: any(len(p.read_text().splitlines()) > 1 for p in tmp_path.glob(log)), 60)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    # The same command, with a newer worker.
    result = run("rml-optimize", *search(tmp_path, discs, "--num-trials", 4))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "trial   0 paused" in result.stdout
    found = facts(tmp_path)
    assert len(found) == 4
    assert all((state == "COMPLETE") == (len(curve) == 9) for state, curve in found)


def test_study_of_an_earlier_release_keeps_its_pruner(
    discs: Path, run: Run, tmp_path: Path, standin: str
) -> None:
    arguments = optimize(discs, "--worker", standin)
    first = run("rml-optimize", *arguments, "--num-trials", "1", "--pruner", "median")
    assert first.returncode == 0, first.stderr
    again = run("rml-optimize", *arguments, "--num-trials", "2")
    assert again.returncode == 0, again.stderr
    storage = f"sqlite:///{tmp_path / 'rml_optimize.db'}"
    study = optuna.load_study(study_name=None, storage=storage)
    assert study.user_attrs[IDENTITY]["pruner"] == "median"
    assert len(study.trials) == 2
    other = run("rml-optimize", *arguments, "--num-trials", "2", "--pruner", "asha")
    assert other.returncode == 2
    assert "pruner: median  ->  asha" in other.stderr


def test_paused_and_promoted_trial_equals_one_that_was_not(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    found = {}
    for pruner in ("asha", "none"):
        arguments = (
            "--num-trials", 4, "--num-epochs", 5, "--pruner", pruner, "--sampler", "random",
            "--output-dir", tmp_path / pruner, "--jobs", 1, "--launcher", "local",
        )  # fmt: skip
        result = run("rml-optimize", *optimize(discs, *arguments))
        assert result.returncode == 0, result.stdout + result.stderr
        found[pruner] = trials_of(tmp_path / pruner)
    lengths = []
    for paused, whole in zip(found["asha"], found["none"], strict=True):
        assert paused.params == whole.params
        lengths.append(len(paused.intermediate_values))
        for epoch, value in paused.intermediate_values.items():
            assert value == whole.intermediate_values[epoch]  # to the last bit
    assert set(lengths) >= {1, 5}
    attempts = [trial.user_attrs["attempt"] for trial in found["asha"]]
    assert attempts[lengths.index(5)] == 3
    models = [tmp_path / pruner / "best_model/trial.json" for pruner in found]
    asha, none = [json.loads(model.read_text()) for model in models]
    if asha["trial"] == none["trial"]:
        assert asha["dice_dataset"] == none["dice_dataset"]


def test_state_that_has_gone_on_meanwhile_is_not_dropped(tmp_path: Path) -> None:
    folders = WorkFolders(output=tmp_path, study=tmp_path / "runs/s")
    pausing = Pausing(folders=folders, num_epochs=9, is_able=True, direction=Direction.MAXIMIZE)
    known = []
    for number in range(4):
        for attempt in (1, 2):
            state = folders.attempt(number, attempt) / rundir.CHECKPOINTS / rundir.RESUME
            state.parent.mkdir(parents=True)
            state.touch()
        lease = Lease(number, "token", attempt=1)
        record = pausing.record(1, lease, 0.0, {"end": "pruned"})
        values = (1 - number / 10,)
        known.append(KnownTrial(number, number, TrialState.WAITING, None, values, record))
    pausing.drop_states(known, 6)  # of six two may go on
    kept = [f"trial_0000{number}/attempt_1" for number in (0, 1)]
    promoted = [f"trial_0000{number}/attempt_2" for number in range(4)]
    assert states_on_disk(tmp_path) == sorted(kept + promoted)
    assert not [*tmp_path.glob("runs/s/trial_00002/attempt_1/*")]


def test_state_of_a_paused_trial_is_moved_and_nothing_else_with_it(tmp_path: Path) -> None:
    folders = WorkFolders(output=tmp_path, study=tmp_path / "runs/s")
    config = {"checkpoints": {"resume": True}}
    paused = {"checkpoints": {"resume": True, "pause_after": 1}}
    first = prepare_attempt(folders, 0, 1, paused).run_dir
    (first / rundir.TEST_LOG).write_text("1 0.5 0.1 0.7\n")
    (first / rundir.CHECKPOINTS).mkdir()
    for name in (rundir.RESUME, "model_checkpoint_1.pt", "else.pt"):
        (first / rundir.CHECKPOINTS / name).write_text(name)
    (first / rundir.CHECKPOINTS / "model_checkpoint_2.pt").symlink_to("/etc/passwd")
    identity = (first / rundir.CHECKPOINTS / rundir.RESUME).stat().st_ino
    second = prepare_attempt(folders, 0, 2, config, moves=True)
    assert (second.resumed, second.evaluated) == (1, {1: 0.7})
    assert not (first / rundir.CHECKPOINTS).exists()
    there = second.run_dir / rundir.CHECKPOINTS
    assert sorted(path.name for path in there.iterdir()) == [
        "model_checkpoint_1.pt", rundir.RESUME,
    ]  # fmt: skip
    assert (there / rundir.RESUME).stat().st_ino == identity
    # A driver that dies now leaves the state to who takes the trial over.
    third = prepare_attempt(folders, 0, 3, config)
    assert third.resumed == 2
    assert third.evaluated == {1: 0.7}
