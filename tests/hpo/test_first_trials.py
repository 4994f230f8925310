"""Configurations that are tried before others are sampled: `first`, `--try`; see test_like.py."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
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

from hpo.keys import FIRST
from hpo.store.database import close_storage, open_storage
from hpo.store.first_trials import FirstTrial, put_first
from hpo.store.lease import LeaseManager

RATE = "optimizer.learning_rate"
SEARCH = ("--optimizers", "adam,sgd", "--loss", "dice", "--search", f"{RATE}=1e-4..1e-1:log")
TRY = ("--try", f"optimizer.type=sgd,{RATE}=0.05", "--try", f"{RATE}=0.002")


def rates(folder: Path) -> list[float]:
    return [entry["lr"] for entry in sorted(list_acc(folder), key=lambda e: e["number"])]  # type: ignore[arg-type,return-value]


def test_values_are_tried_first_and_once_each(
    discs: Path, run: Run, tmp_path: Path, url: str
) -> None:
    worker = standin_settings(tmp_path, {})
    command = optimize(discs, "--worker", worker, "--jobs", 1, *SEARCH, "--storage", url)
    result = run("rml-optimize", *command, *TRY, "--num-trials", 4)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "tried first" in result.stdout
    assert rates(tmp_path)[:2] == [0.05, 0.002]
    assert list_acc(tmp_path)[0]["optimizer"] == "SGD"
    assert len(list_acc(tmp_path)) == 4  # they count
    # The same again with more trials tries none a second time, and a new one at once.
    more = ("--try", f"{RATE}=0.003", "--num-trials", 6)
    result = run("rml-optimize", *command, *TRY, *more)
    assert result.returncode == 0, result.stdout + result.stderr
    found = rates(tmp_path)
    assert len(found) == 6
    assert (found[4], found.count(0.05), found.count(0.002)) == (0.003, 1, 1)


def test_no_more_are_tried_than_the_study_has_trials(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    command = optimize(discs, "--worker", standin_settings(tmp_path, {}), "--jobs", 1, *SEARCH)
    result = run("rml-optimize", *command, *TRY, "--num-trials", 1)
    assert result.returncode == 0, result.stdout + result.stderr
    assert rates(tmp_path) == [0.05]
    assert "1 configuration to try first left out" in result.stdout


def test_tries_survive_kills(discs: Path, run: Run, tmp_path: Path) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.2})
    command = optimize(
        discs, "--worker", worker, "--jobs", 1, *SEARCH, *TRY, "--num-trials", 4, "--lease", 1
    )
    for number in (0, 1):
        process = start(tmp_path, *command)
        pattern = f"runs/*/trial_0000{number}/*/config.json"
        try:
            wait_for(lambda pattern=pattern: list(tmp_path.glob(pattern)), 180)
        finally:
            process.kill()
            process.communicate()
    standin_settings(tmp_path, {})
    result = run("rml-optimize", *command)
    assert result.returncode == 0, result.stdout + result.stderr
    found = rates(tmp_path)
    assert len(found) == 4
    assert found[:2] == [0.05, 0.002]
    assert set(states(tmp_path).values()) <= {"COMPLETE", "PRUNED"}


def test_drivers_that_start_at_once_try_each_once(url: str) -> None:
    rdb = open_storage(url)
    study = optuna.create_study(study_name="s", storage=rdb, direction="maximize")
    wanted = [FirstTrial({"x": number}) for number in range(6)]

    def one_driver(_: int) -> list[int]:
        own = open_storage(url)
        office = LeaseManager(own, study._study_id, lease_s=30)
        try:
            left = put_first(own, study._study_id, wanted, 5)
            assert left in (0, 1)
            taken = []
            while (lease := office.claim(5)) is not None:
                taken.append(lease.trial_id)
            return taken
        finally:
            office.close()
            close_storage(own)

    with ThreadPoolExecutor(4) as pool:
        taken = [each for found in pool.map(one_driver, range(4)) for each in found]
    trials = study.get_trials(deepcopy=False)
    assert sorted(taken) == [trial._trial_id for trial in trials]
    assert [trial.number for trial in trials] == list(range(5))
    assert [trial.system_attrs["fixed_params"]["x"] for trial in trials] == list(range(5))
    assert {trial.state for trial in trials} == {TrialState.RUNNING}
    close_storage(rdb)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("optimizer.typ=sgd", "did you mean 'optimizer.type'? Known: optimizer.type"),
        ("optimizer.type=LARS", "not in the search space"),
        ("optimizer.type=Adamm", "did you mean 'Adam'"),
        (f"{RATE}=0.5", "not in the search space (0.0001 .. 0.1"),
        (f"{RATE}=fast", "not in the search space"),
        (f"{RATE}=true", "not in the search space"),
        ("loss.function=BCE", "it is 'Dice' in all trials"),
        ("optimizer=adam,lr=0.001", "optimizer is no field; did you mean optimizer.type?"),
        ("lr=0.001", "lr is no field; did you mean optimizer.learning_rate?"),
        ("learning_rate=0.001", "did you mean optimizer.learning_rate?"),
        ("type=SGD", "did you mean optimizer.type?"),
        ("loss=dice", "did you mean loss.function?"),
        ("nonsense", "expected KEY=VALUE"),
        (f"{RATE}=0.1,{RATE}=0.01", "is there twice"),
    ],
)
def test_bad_values_are_named_before_anything_is_trained(
    discs: Path, run: Run, tmp_path: Path, text: str, expected: str
) -> None:
    command = optimize(discs, "--worker", standin_settings(tmp_path, {}), *SEARCH)
    message = one_error(run("rml-optimize", *command, "--try", text))
    assert "--try" in message
    assert expected in message
    assert not list(tmp_path.glob("runs/*/trial_*"))


STUDY = """
title = "a study with usual values"
num_trials = 4
num_epochs = 2
resize = [32, 32]
layers = "unet:width=2,depth=1"
first = [{first}]
[config]
"loss.function" = "Dice"
[[search]]
key = "optimizer.type"
values = ["Adam", "SGD"]
[[search]]
key = "optimizer.learning_rate"
when = {{ "optimizer.type" = "Adam" }}
range = [1e-4, 1e-2]
log = true
[[search]]
key = "optimizer.learning_rate"
when = {{ "optimizer.type" = "SGD" }}
range = [1e-3, 0.3]
log = true
[[search]]
key = "data.batch_size"
values = [2, 4]
"""
ADAM = f'{{ "optimizer.type" = "Adam", "{RATE}" = 0.001 }}'
SGD = f'{{ "optimizer.type" = "SGD", "{RATE}" = 0.1, "data.batch_size" = 4 }}'


def study_command(tmp_path: Path, discs: Path, first: str) -> list[str]:
    (tmp_path / "mine").mkdir(exist_ok=True)
    (tmp_path / "mine/study.toml").write_text(STUDY.format(first=first))
    worker = standin_settings(tmp_path, {})
    return ["--study", "mine", "--data", str(discs), "--worker", worker, "--jobs", "1"]


def test_study_names_what_is_tried_first(discs: Path, run: Run, tmp_path: Path) -> None:
    command = study_command(tmp_path, discs, f"{ADAM}, {SGD}")
    result = run("rml-optimize", *command)
    assert result.returncode == 0, result.stdout + result.stderr
    adam, sgd, *others = sorted(list_acc(tmp_path), key=lambda entry: entry["number"])  # type: ignore[arg-type,return-value]
    assert len(others) == 2
    assert (adam["optimizer"], adam["lr"]) == ("Adam", 0.001)
    assert (sgd["optimizer"], sgd["lr"]) == ("SGD", 0.1)
    assert sgd["params"]["data.batch_size"] == 4  # type: ignore[index]


def test_what_the_command_line_has_taken_from_the_space_is_left_out(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    command = study_command(tmp_path, discs, f"{ADAM}, {SGD}")
    result = run("rml-optimize", *command, "--optimizers", "sgd")
    assert result.returncode == 0, result.stdout + result.stderr
    assert [entry["lr"] for entry in list_acc(tmp_path)].count(0.1) == 1
    assert {entry["optimizer"] for entry in list_acc(tmp_path)} == {"SGD"}


@pytest.mark.parametrize(
    "first, expected",
    [
        (f'{{ "{RATE}" = 0.001 }}', "depends on optimizer.type"),
        ('{ "optimizer.type" = "SGD", "optimizer.learning_rate" = 0.5 }', "first, entry 1"),
        ('{ "optimizer.momentum" = 0.9 }', "optimizer.momentum is not searched"),
        ("7", "first"),
    ],
)
def test_bad_first_entries_of_a_study_are_named(
    discs: Path, run: Run, tmp_path: Path, first: str, expected: str
) -> None:
    assert expected in one_error(run("rml-optimize", *study_command(tmp_path, discs, first)))


def test_a_study_that_starts_over_tries_them_again(discs: Path, run: Run, tmp_path: Path) -> None:
    worker = standin_settings(tmp_path, {"end": {"all": [2]}})
    command = optimize(discs, "--worker", worker, "--jobs", 1, *SEARCH, "--num-trials", 2)
    one_error(run("rml-optimize", *command, "--try", f"{RATE}=0.05"))
    standin_settings(tmp_path, {})
    result = run("rml-optimize", *command, "--try", f"{RATE}=0.05", "--num-epochs", 4)
    assert result.returncode == 0, result.stdout + result.stderr
    assert rates(tmp_path).count(0.05) == 1


def test_what_an_earlier_release_has_tried_is_not_tried_again(url: str) -> None:
    rdb = open_storage(url)
    study = optuna.create_study(study_name="s", storage=rdb, direction="maximize")
    study.enqueue_trial({"x": 1, "y": 0.5}, user_attrs={FIRST: "like earlier, 1"})
    study.enqueue_trial({"y": 0.25})  # somebody's own
    wanted = [FirstTrial({"y": 0.5, "x": 1.0}), FirstTrial({"y": 0.25})]
    for _ in range(2):
        assert put_first(rdb, study._study_id, wanted, 9) == 0
        fixed = [each.system_attrs["fixed_params"] for each in study.get_trials(deepcopy=False)]
        assert fixed == [{"x": 1, "y": 0.5}, {"y": 0.25}, {"y": 0.25}]
    close_storage(rdb)


def test_dry_run_shows_them(discs: Path, run: Run, tmp_path: Path) -> None:
    worker = standin_settings(tmp_path, {})
    result = run("rml-optimize", *optimize(discs, "--worker", worker, *SEARCH), *TRY, "--dry-run")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "type=SGD learning_rate=0.05" in result.stdout
    config = json.loads(
        result.stdout[result.stdout.index('{\n  "neural') :].rpartition("}")[0] + "}"
    )
    assert config["neural_network"]["loss"]["function"] == "Dice"
