"""Of equal scores the earliest is the best, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from hpo.keys import END, PROVENANCE
from hpo.objective import DEFAULT
from hpo.run.outcome import AttemptResult, Outcome
from hpo.run.progress import Tally
from hpo.run.search import tally_of
from hpo.store.database import close_storage, open_storage
from hpo.store.study import best_epoch, best_of_optuna, best_trial
from hpo.study.confirm import _best_trials
from hpo.study.queries import StudyReader
from hpo.study.status import read_status

CURVES: tuple[Mapping[int, float], ...] = (
    {1: 0.2, 2: 0.3},
    {1: 0.1, 2: 0.7, 3: 0.7},
    {1: 0.7, 2: 0.1},
    {},
)


@pytest.fixture(params=["with ends", "without ends"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[optuna.Study]:
    """Trials 1 and 2 of this study are equal, 1 reaches its score twice, 3 has none."""
    storage = open_storage(f"sqlite:///{tmp_path}/study.db")
    made = optuna.create_study(storage=storage, direction="maximize")
    provenance = {"data": {"folder": "split_1"}}
    for number in (0, 1, 2, 3):
        curve = CURVES[number]
        score = max(curve.values(), default=None)
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


def test_all_agree_on_the_best_of_equals(study: optuna.Study) -> None:
    best, optunas = best_trial(study), best_of_optuna(study)
    assert best is not None
    assert optunas is not None
    assert (best.number, optunas.number, best_epoch(best)) == (1, 1, 2)
    tally = tally_of(SimpleNamespace(num_trials=4, objective=DEFAULT), study.get_trials())
    assert tally.best == (0.7, 1)
    reader = StudyReader(study._storage._backend.engine, study._study_id)
    found = reader.best()
    assert found is not None
    assert (found.number, found.score, found.epoch) == (1, 0.7, 2)
    status = read_status(study.study_name, reader)
    assert (status["best"]["trial"], status["best"]["epoch"]) == (1, 2)
    assert status["best_of_optuna"]["trial"] == 1
    assert [trial.number for trial in _best_trials(study, 3)] == [1, 2, 0]


def test_a_study_without_scores_has_no_best_trial() -> None:
    study = optuna.create_study(direction="maximize")
    study.add_trial(optuna.trial.create_trial(state=TrialState.PRUNED))
    assert best_trial(study) is None
    assert (
        tally_of(SimpleNamespace(num_trials=1, objective=DEFAULT), study.get_trials()).best is None
    )


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_order_in_which_equal_trials_end_changes_nothing(order: tuple[int, int]) -> None:
    tally = Tally(4, 0, None)
    for number in order:
        tally.add(Outcome(number=number, end="complete", score=0.7))
    assert tally.best == (0.7, 1)


def test_an_attempt_has_the_first_of_its_best_epochs() -> None:
    ended = AttemptResult("complete", {3: 0.7, 2: 0.7, 1: 0.1})
    assert (ended.score, ended.epoch) == (0.7, 2)
    assert AttemptResult("failed").epoch is None
