"""A study that is minimized beside one of the negative values, maximized: the same is decided."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from hpo.folders import WorkFolders
from hpo.keys import BUDGET, END, PAUSED, PROVENANCE
from hpo.objective import Objective
from hpo.plan.pruners import make_pruner
from hpo.plan.samplers import make_sampler
from hpo.records import OUT_OF_TIME
from hpo.run.pausing import Pausing
from hpo.run.time_plan import TimePlanning
from hpo.store.agreement import start_over
from hpo.store.claim import Lease
from hpo.store.database import close_storage, open_storage
from hpo.store.lease import LeaseManager
from hpo.store.pausing import KnownTrial
from hpo.store.sampling import SnapshotStorage, draw, should_prune
from hpo.store.study import best_trial
from hpo.study.queries import StudyReader
from hpo.study.status import read_status
from trainer.direction import Direction

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
NUM_TRIALS, NUM_EPOCHS = 12, 9


class Half:
    """One of the two studies, with a driver's rules; `sign` times what it is told is compared."""

    def __init__(self, folder: Path, direction: Direction) -> None:
        folder.mkdir()
        self.sign = direction.rising(1.0)
        self.rdb = open_storage(f"sqlite:///{folder}/s.db")
        self.study = optuna.create_study(
            study_name="s", storage=SnapshotStorage(self.rdb), direction=direction.value
        )
        self.office = LeaseManager(self.rdb, self.study._study_id, lease_s=60)
        folders = WorkFolders(output=folder, study=folder / "runs/s")
        self.pausing = Pausing(
            folders=folders, num_epochs=NUM_EPOCHS, is_able=True, direction=direction
        )
        self.planning = TimePlanning.of(NUM_EPOCHS, direction, self.pausing)
        self.spec: Any = SimpleNamespace(
            sampler="tpe", seed=0, num_trials=NUM_TRIALS, num_epochs=NUM_EPOCHS,
            num_warmup_epochs=1, objective=Objective("x", direction),
        )  # fmt: skip

    def claim(self) -> Lease | None:
        return self.office.claim(
            NUM_TRIALS, promotion=self.pausing, planning=self.planning, may_reap=False
        )

    def number(self, lease: Lease) -> int:
        return next(t.number for t in self.study.trials if t._trial_id == lease.trial_id)

    def sample(self, lease: Lease) -> dict[str, Any]:
        seen: list[tuple[TrialState, float | None]] = []

        def look(trial: optuna.Trial) -> dict[str, Any]:
            for each in self.study.get_trials(deepcopy=False):
                value = None if each.value is None else self.sign * each.value
                seen.append((each.state, value))
            return suggest(trial)

        trial, chosen = draw(
            self.study, lease.trial_id, lambda number: make_sampler(self.spec, number), look,
            first_rung=1,
        )  # fmt: skip
        assert self.office.set_params(lease, trial)
        return chosen | {"seen": seen}

    def go_on(self, lease: Lease, curve: dict[int, float], until: int, *, ends: bool) -> None:
        """Train up to an epoch, and pause there, or end; `ends` for one that has no more time."""
        told = {epoch: self.sign * value for epoch, value in curve.items() if epoch <= until}
        assert self.office.report(lease, told)
        end: Any = {"end": OUT_OF_TIME if ends else "complete", "seconds": {"total": 60.0 * until}}
        if until == NUM_EPOCHS or ends:
            state = TrialState.PRUNED if ends else TrialState.COMPLETE
            value = self.spec.objective.direction.best_score(told)
            assert self.office.finish(lease, state, value, {END: end})
        else:
            record = self.pausing.record(until, lease, 1.0, end)
            assert self.office.pause(lease, told, {PAUSED: record, "rml:spent": end["seconds"]})

    def facts(self) -> list[Any]:
        return [
            (
                trial.state,
                trial.params,
                None if trial.value is None else self.sign * trial.value,
                {epoch: self.sign * v for epoch, v in trial.intermediate_values.items()},
            )
            for trial in self.study.trials
        ]

    def close(self) -> None:
        self.office.close()
        close_storage(self.rdb)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    kind = trial.suggest_categorical("type", ["Adam", "SGD"])
    rate = trial.suggest_float(f"rate[{kind}]", 1e-4, 1e-1, log=True)
    return {"type": kind, "rate": rate}


@pytest.fixture
def halves(tmp_path: Path) -> Iterator[tuple[Half, Half]]:
    """A study that is maximized, and one that is minimized."""
    made = tuple(Half(tmp_path / direction, direction) for direction in Direction)
    yield made
    for half in made:
        half.close()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("hours", [None, 1.0])
def test_whole_search_decides_the_same(
    halves: tuple[Half, Half], seed: int, hours: float | None
) -> None:
    chance = random.Random(seed)
    curves: dict[int, dict[int, float]] = {}
    if hours is not None:
        for half in halves:
            half.office.budget.ask(hours)
    for step in range(200):
        leases = [half.claim() for half in halves]
        if None in leases:
            assert leases == [None, None]
            if all(t.state.is_finished() for t in halves[0].study.trials):
                break
            continue
        first, second = leases
        assert first is not None
        assert second is not None
        number = halves[0].number(first)
        assert number == halves[1].number(second)
        assert (first.attempt, first.until, first.ends) == (
            second.attempt, second.until, second.ends,
        )  # fmt: skip
        if first.attempt == 1:
            assert halves[0].sample(first) == halves[1].sample(second)
            # an engine may leave out epochs; where it does not pause, even the first
            passes = chance.random() < 0.2
            epochs = [
                epoch
                for epoch in range(2 if passes else 1, NUM_EPOCHS + 1)
                if epoch in (1, 3, NUM_EPOCHS) or chance.random() > 0.3
            ]
            curves[number] = {epoch: chance.uniform(-1, 1) for epoch in epochs}
        until = halves[0].pausing.end_of(first) or NUM_EPOCHS
        until = until if 1 in curves[number] else NUM_EPOCHS
        ends = first.ends or chance.random() < 0.1
        for half, lease in zip(halves, (first, second), strict=True):
            half.go_on(lease, curves[number], until, ends=ends)
        if hours is not None and step == 20:
            for half in halves:  # the time is over
                budget = half.study.user_attrs[BUDGET]
                half.study.set_user_attr(BUDGET, budget | {"began": budget["began"] - 3700})
        known = [half.office.known_trials() for half in halves]
        for half, each in zip(halves, known, strict=True):
            half.pausing.drop_states(each, NUM_TRIALS)
    else:
        raise AssertionError("it did not end")
    assert halves[0].facts() == halves[1].facts()
    best = [best_trial(half.study) for half in halves]
    assert best[0] is not None
    assert best[1] is not None
    assert best[0].number == best[1].number


def test_every_database_says_which_way_a_study_goes(url: str) -> None:
    rdb = open_storage(url)
    study = optuna.create_study(study_name="s", storage=SnapshotStorage(rdb), direction="minimize")
    office = LeaseManager(rdb, study._study_id, lease_s=60)
    for curve in ({1: 3.0, 2: 1.5}, {1: 0.6, 2: 4.0}):
        lease = office.claim(9)
        assert lease is not None
        assert office.report(lease, curve)
        assert office.finish(lease, TrialState.COMPLETE, min(curve.values()))
    lease = office.claim(9)
    assert lease is not None
    assert office.report(lease, {1: 2.0, 2: 7.0})
    reader = StudyReader(rdb.engine, study._study_id)
    found = reader.best()
    assert found is not None
    assert (found.number, found.score, found.epoch) == (1, 0.6, 1)
    assert [each.best for each in reader.running(PROVENANCE)] == [2.0]
    assert read_status("s", reader)["direction"] == "minimize"
    other = optuna.create_study(study_name="t", storage=SnapshotStorage(rdb), direction="maximize")
    identity = {"objective": "distance", "direction": "minimize"}
    assert start_over(rdb, other._study_id, identity)
    assert StudyReader(rdb.engine, other._study_id).direction == Direction.MINIMIZE
    assert not start_over(rdb, study._study_id, {})  # it has trials
    again = optuna.load_study(study_name="s", storage=SnapshotStorage(rdb))
    assert again.direction.name == "MINIMIZE"
    office.close()
    close_storage(rdb)


@pytest.mark.parametrize("direction", Direction)
def test_what_time_is_left_is_for_the_best(direction: Direction) -> None:
    record: Any = {"epoch": 1}
    known = [
        KnownTrial(
            number, number, TrialState.WAITING, None, (direction.rising(value),), record,
            {"total": 100.0, "first_epoch": 100.0},
        )
        for number, value in enumerate((0.1, 0.3, 0.2))
    ]  # fmt: skip
    planning = TimePlanning((1, 3), NUM_EPOCHS, direction)
    assert planning.may_go_on(known, 1.0) == {1}


@pytest.mark.parametrize("name", ["median", "hyperband"])
def test_pruner_stops_the_same_trials(halves: tuple[Half, Half], name: str) -> None:
    chance = random.Random(1)
    for half in halves:
        half.spec.pruner = name
        half.study.pruner = make_pruner(half.spec)
    stopped = 0
    for _ in range(NUM_TRIALS):
        leases = [half.office.claim(NUM_TRIALS, may_reap=False) for half in halves]
        for epoch in range(1, NUM_EPOCHS + 1):
            value, verdicts = chance.uniform(-1, 1), []
            for half, lease in zip(halves, leases, strict=True):
                assert lease is not None
                assert half.office.report(lease, {epoch: half.sign * value})
                verdicts.append(should_prune(half.study, lease.trial_id))
            assert verdicts[0] == verdicts[1]
            if verdicts[0]:
                stopped += 1
                break
        for half, lease in zip(halves, leases, strict=True):
            assert lease is not None
            state = TrialState.PRUNED if verdicts[0] else TrialState.COMPLETE
            assert half.office.finish(lease, state, half.sign * value)
    assert 0 < stopped < NUM_TRIALS
