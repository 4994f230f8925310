"""Of equal scores the earliest is the best, whoever asks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from hpo.keys import END, PROVENANCE
from hpo.objective import Objective
from hpo.run.outcome import Outcome
from hpo.run.progress import Tally
from hpo.run.search import tally_of
from hpo.store.database import close_storage, open_storage
from hpo.store.study import best_epoch, best_of_optuna, best_trial
from hpo.study.confirm import _best_trials
from hpo.study.queries import StudyReader
from hpo.study.status import read_status
from trainer.direction import Direction

CURVES: tuple[Mapping[int, float], ...] = (
    {1: 0.2, 2: 0.3},
    {1: 0.1, 2: 0.7, 3: 0.7},
    {1: 0.7, 2: 0.1},
    {},
)


def search_for(direction: Direction, num_trials: int) -> Any:
    return SimpleNamespace(num_trials=num_trials, objective=Objective("x", direction))


@pytest.fixture(params=Direction)
def direction(request: pytest.FixtureRequest) -> Direction:
    return Direction(request.param)


@pytest.fixture(params=["with ends", "without ends"])
def study(
    request: pytest.FixtureRequest, direction: Direction, tmp_path: Path
) -> Iterator[optuna.Study]:
    """Trials 1 and 2 of this study are equal, 1 reaches its score twice, 3 has none."""
    storage = open_storage(f"sqlite:///{tmp_path}/study.db")
    made = optuna.create_study(storage=storage, direction=direction.value)
    provenance = {"data": {"folder": "split_1"}}
    for number in (0, 1, 2, 3):
        curve = {epoch: direction.rising(value) for epoch, value in CURVES[number].items()}
        score = direction.best_score(curve)
        end = {END: {"end": "complete", "dice_dataset": score, "epoch": {1: 2, 2: 1}.get(number)}}
        made.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE if curve else TrialState.PRUNED,
                value=score,
                params={"x": number},
                distributions={"x": optuna.distributions.IntDistribution(0, 3)},
                intermediate_values=dict(curve),
                user_attrs={
                    "lease": "host/1",
                    PROVENANCE: provenance,
                    **(end if request.param == "with ends" else {}),
                },
            )
        )
    yield made
    close_storage(storage)


def test_all_agree_on_the_best_of_equals(study: optuna.Study, direction: Direction) -> None:
    best, optunas = best_trial(study), best_of_optuna(study)
    assert best is not None
    assert optunas is not None
    assert (best.number, optunas.number, best_epoch(best, direction)) == (1, 1, 2)
    value = direction.rising(0.7)
    tally = tally_of(search_for(direction, 4), study.get_trials())
    assert tally.best == (value, 1)
    reader = StudyReader(study._storage._backend.engine, study._study_id)
    found = reader.best()
    assert found is not None
    assert (found.number, found.score, found.epoch) == (1, value, 2)
    status = read_status(study.study_name, reader)
    assert (status["best"]["trial"], status["best"]["epoch"]) == (1, 2)
    assert status["best_of_optuna"]["trial"] == 1
    assert [trial.number for trial in _best_trials(study, 3)] == [1, 2, 0]


def test_a_study_without_scores_has_no_best_trial(direction: Direction) -> None:
    study = optuna.create_study(direction=direction.value)
    study.add_trial(optuna.trial.create_trial(state=TrialState.PRUNED))
    assert best_trial(study) is None
    assert tally_of(search_for(direction, 1), study.get_trials()).best is None


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_order_in_which_equal_trials_end_changes_nothing(
    order: tuple[int, int], direction: Direction
) -> None:
    tally = Tally(4, 0, None, direction)
    for number in order:
        tally.add(Outcome(number=number, end="complete", score=0.7))
    assert tally.best == (0.7, 1)


def test_a_curve_has_the_first_of_its_best_epochs(direction: Direction) -> None:
    curve = {4: 0.1, 3: 0.7, 2: 0.7, 1: 0.1}
    expected = {Direction.MAXIMIZE: (0.7, 2), Direction.MINIMIZE: (0.1, 1)}[direction]
    assert (direction.best_score(curve), direction.best_epoch(curve)) == expected
    assert direction.best_epoch({}) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_never_wins(bad: float, direction: Direction) -> None:
    assert direction.best_epoch({1: bad, 2: 0.5, 3: bad}) == 2
    assert direction.best_epoch({1: bad}) is None
    assert direction.best([bad, 0.5]) == 0.5
    assert direction.is_better(0.5, bad)
    assert not direction.is_better(bad, 0.5)
    tally = Tally(2, 0, None, direction)
    for number, value in enumerate((0.5, bad)):
        tally.add(Outcome(number=number, end="complete", score=value))
    assert tally.best == (0.5, 0)
