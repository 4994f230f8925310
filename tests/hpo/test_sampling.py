"""Sampling with one look at the trials, beside Optuna's own `ask`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import HyperbandPruner, MedianPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState
from sqlalchemy import Engine, event

from hpo.keys import END, PAUSED
from hpo.plan.pruners import make_pruner
from hpo.store.database import close_storage, open_storage
from hpo.store.lease import LeaseManager
from hpo.store.sampling import SnapshotStorage, UnfitValuesError, draw, should_prune

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def make_sampler(number: int) -> BaseSampler:
    return TPESampler(seed=number, multivariate=True, group=True, n_startup_trials=5)


@pytest.mark.parametrize("num_trials, num_whole", [(1, 3), (8, 4), (18, 9), (50, 10)])
def test_half_of_a_short_search_runs_whole(num_trials: int, num_whole: int) -> None:
    spec = SimpleNamespace(
        pruner="median", num_trials=num_trials, num_warmup_epochs=3, num_epochs=9
    )
    study = optuna.create_study(direction="maximize", pruner=make_pruner(spec))  # type: ignore
    for _ in range(num_whole):
        poor = study.ask()  # beside whole trials, of which there are too few so far
        assert not is_pruned(poor, 0.1)
        study.tell(poor, state=TrialState.FAIL)
        trial = study.ask()
        assert not is_pruned(trial, 0.8)
        study.tell(trial, 0.8)
    assert is_pruned(study.ask(), 0.1)


def is_pruned(trial: optuna.Trial, score: float) -> bool:
    """Report a score in six epochs."""
    for epoch in range(1, 7):
        trial.report(score, epoch)
    return trial.should_prune()


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """A space with a learning rate for each optimizer."""
    kind = trial.suggest_categorical("type", ["Adam", "SGD"])
    rate = trial.suggest_float(f"rate[{kind}]", 1e-4, 1e-1, log=True)
    return {"type": kind, "rate": rate, "size": trial.suggest_int("size", 1, 8)}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 12 trials with scores, and one of another driver that runs."""
    path = tmp_path_factory.mktemp("filled") / "studies.db"
    storage = open_storage(f"sqlite:///{path}")
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
    for number in range(12):
        kind = ("Adam", "SGD")[number % 2]
        score = number * 7 % 12 / 12
        study.add_trial(
            optuna.create_trial(
                value=score,
                params={
                    "type": kind,
                    f"rate[{kind}]": 10 ** -(1 + number / 4),
                    "size": 1 + number % 8,
                },
                distributions={
                    "type": CategoricalDistribution(("Adam", "SGD")),
                    f"rate[{kind}]": FloatDistribution(1e-4, 1e-1, log=True),
                    "size": IntDistribution(1, 8),
                },
                intermediate_values={1: score},
            )
        )
    study.sampler = make_sampler(12)
    suggest(study.ask())
    close_storage(storage)
    return path


@pytest.fixture
def study(filled: Path, tmp_path: Path) -> Iterator[optuna.Study]:
    shutil.copy(filled, tmp_path / "studies.db")
    rdb = open_storage(f"sqlite:///{tmp_path / 'studies.db'}")
    yield optuna.load_study(study_name="s", storage=SnapshotStorage(rdb))
    close_storage(rdb)


def office_of(study: optuna.Study) -> LeaseManager:
    storage = study._storage
    assert isinstance(storage, SnapshotStorage)
    return LeaseManager(storage._backend, study._study_id, lease_s=30)


def test_values_are_those_of_optunas_own_ask(
    study: optuna.Study, filled: Path, tmp_path: Path
) -> None:
    shutil.copy(filled, tmp_path / "other.db")
    rdb = open_storage(f"sqlite:///{tmp_path / 'other.db'}")
    other = optuna.load_study(study_name="s", storage=rdb, sampler=make_sampler(13))
    expected = other.ask()
    values = suggest(expected)

    lease_manager = office_of(study)
    lease = lease_manager.claim(100, may_reap=False)
    assert lease is not None
    trial, chosen = draw(study, lease.trial_id, make_sampler, suggest)
    assert (trial.number, chosen) == (13, values)
    assert study.trials[13].params == {}  # nothing is stored yet
    assert lease_manager.set_params(lease, trial)
    stored, asked = study.trials[13], other.trials[13]
    assert list(stored.params.items()) == list(asked.params.items())
    assert stored.distributions == asked.distributions
    # What is stored is what a second look finds, and nothing is sampled again.
    assert draw(study, lease.trial_id, lambda number: make_sampler(99), suggest)[1] == values
    lease_manager.close()
    close_storage(rdb)


def test_enqueued_values_are_taken(study: optuna.Study) -> None:
    study.enqueue_trial({"type": "SGD", "size": 3})
    lease_manager = office_of(study)
    lease = lease_manager.claim(100, may_reap=False)
    assert lease is not None
    trial, chosen = draw(study, lease.trial_id, make_sampler, suggest)
    assert (chosen["type"], chosen["size"]) == ("SGD", 3)
    assert lease_manager.set_params(lease, trial)
    assert study.trials[-1].params["size"] == 3
    lease_manager.close()


def test_sampler_sees_unfinished_trials_at_a_rung_as_pruned(study: optuna.Study) -> None:
    lease_manager = office_of(study)
    leases = [lease_manager.claim(100, may_reap=False) for _ in range(4)]
    for lease, curve in zip(leases, ({1: 0.4, 2: 0.3}, {1: 0.9}, {}), strict=False):
        assert lease is not None
        assert lease_manager.report(lease, curve)
    running, paused, _, drawn = leases
    assert running and paused and drawn
    assert lease_manager.pause(paused, {1: 0.9}, {PAUSED: {"epoch": 1}})
    seen: dict[int, tuple[str, Any]] = {}

    def look(trial: optuna.Trial) -> dict[str, Any]:
        for each in study.get_trials(deepcopy=False):
            seen[each.number] = each.state.name, each.value
        return suggest(trial)

    first = min(trial.number for trial in study.trials if trial.state == TrialState.RUNNING) + 1
    for first_rung in (1, 2, None):
        draw(study, drawn.trial_id, make_sampler, look, first_rung=first_rung)
        expected = {
            1: [("PRUNED", 0.4), ("PRUNED", 0.9)],
            2: [("PRUNED", 0.4), ("WAITING", None)],
            None: [("RUNNING", None), ("WAITING", None)],
        }[first_rung]
        assert [seen[first], seen[first + 1]] == expected
        assert [seen[number][0] for number in (first + 2, first + 3)] == ["RUNNING"] * 2
    # Nothing of it is in the database.
    now = [trial.state.name for trial in study.get_trials()[first : first + 4]]
    assert now == ["RUNNING", "WAITING", "RUNNING", "RUNNING"]
    lease_manager.close()


def test_sampler_compares_what_ran_out_of_time_by_its_score(study: optuna.Study) -> None:
    lease_manager = office_of(study)
    first = len(study.trials)
    for end in ("out of time", "pruned"):
        lease = lease_manager.claim(100, may_reap=False)
        assert lease and lease_manager.report(lease, {1: 0.4})
        assert lease_manager.finish(lease, TrialState.PRUNED, 0.4, {END: {"end": end}})
    drawn = lease_manager.claim(100, may_reap=False)
    assert drawn
    seen: list[tuple[str, Any]] = []

    def look(trial: optuna.Trial) -> dict[str, Any]:
        ended = study.get_trials(deepcopy=False)[first : first + 2]
        seen.extend((each.state.name, each.value) for each in ended)
        return suggest(trial)

    draw(study, drawn.trial_id, make_sampler, look)
    assert seen == [("COMPLETE", 0.4), ("PRUNED", 0.4)]
    now = [trial.state.name for trial in study.get_trials()[first : first + 2]]
    assert now == ["PRUNED", "PRUNED"]  # nothing of it is in the database
    lease_manager.close()


@pytest.mark.parametrize("pruner", [MedianPruner(n_warmup_steps=0), HyperbandPruner()])
def test_pruner_decides_as_optuna_does(
    study: optuna.Study, pruner: optuna.pruners.BasePruner
) -> None:
    study.pruner = pruner
    lease_manager = office_of(study)
    lease = lease_manager.claim(100, may_reap=False)
    assert lease is not None
    for value in (1.0, -1.0):
        trial = optuna.Trial(study, lease.trial_id)
        assert lease_manager.report(lease, {1: value})
        expected = study.pruner.prune(study, study._storage.get_trial(trial._trial_id))
        assert should_prune(study, lease.trial_id) == expected
    lease_manager.close()


def test_trials_are_read_once_for_all_that_sampling_asks(study: optuna.Study) -> None:
    lease_manager = office_of(study)
    lease = lease_manager.claim(100, may_reap=False)
    assert lease is not None
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        trial, _ = draw(study, lease.trial_id, make_sampler, suggest)
        num_read = len(statements)
        assert lease_manager.set_params(lease, trial)
        num_stored = len(statements) - num_read
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    # Study, trials, and five kinds of rows of theirs; then SQLite's lock, lease, token, and the
    # old and new parameters.
    assert (num_read, num_stored) == (7, 5), statements
    lease_manager.close()


def test_sampler_that_fails_by_itself_is_told_from_enqueued_values(study: optuna.Study) -> None:
    def suggest_badly(trial: optuna.Trial) -> dict[str, Any]:
        raise ValueError("choices that differ")

    for values in ({}, {"type": "SGD"}):
        study.enqueue_trial(values)
        lease_manager = LeaseManager(study._storage._backend, study._study_id, lease_s=30)  # type: ignore
        lease = lease_manager.claim(100, may_reap=False)
        assert lease is not None
        with pytest.raises(UnfitValuesError, match="choices that differ") as caught:
            draw(study, lease.trial_id, make_sampler, suggest_badly)
        assert caught.value.is_enqueued == bool(values)
        lease_manager.close()
