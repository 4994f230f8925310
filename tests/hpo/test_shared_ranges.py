"""The sampler learns one position of all learning rates; the study stores them as ever."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, TPESampler

from hpo.plan.shared_ranges import SharedRanges
from hpo.plan.space import Categorical, Dimension, Range, SearchSpace
from hpo.store.database import close_storage, open_storage
from hpo.store.lease import LeaseManager
from hpo.store.sampling import SnapshotStorage, draw

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

TYPE, RATE = "optimizer.type", "optimizer.learning_rate"
ADAM, SGD = (1e-4, 1e-2), (1e-2, 1.0)
SPACE = SearchSpace(
    (
        Dimension(TYPE, Categorical(("Adam", "SGD"))),
        Dimension(RATE, Range(*ADAM, log=True), (TYPE, "Adam")),
        Dimension(RATE, Range(*SGD, log=True), (TYPE, "SGD")),
        Dimension("optimizer.momentum", Range(0.8, 0.99), (TYPE, "SGD")),
    )
)
SHARED = SharedRanges.of(SPACE)


def make_sampler(number: int) -> BaseSampler:
    return TPESampler(seed=number, multivariate=True, group=True, n_startup_trials=5)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[optuna.Study]:
    """A study of an earlier release: 30 trials, all of Adam, best where its range begins."""
    rdb = open_storage(f"sqlite:///{tmp_path / 'studies.db'}")
    study = optuna.create_study(study_name="s", storage=SnapshotStorage(rdb), direction="maximize")
    for number in range(30):
        position = number / 29
        study.add_trial(
            optuna.create_trial(
                value=1 - position,
                params={TYPE: "Adam", f"{RATE}[Adam]": 10 ** (-4 + 2 * position)},
                distributions={
                    TYPE: CategoricalDistribution(("Adam", "SGD")),
                    f"{RATE}[Adam]": FloatDistribution(*ADAM, log=True),
                },
                intermediate_values={1: 1 - position},
            )
        )
    yield study
    close_storage(rdb)


def ask(
    study: optuna.Study, shared: SharedRanges, fixed: dict[str, object] | None = None
) -> tuple[optuna.trial.FrozenTrial, dict[str, object]]:
    """Take a trial, draw its values and store them, as a slot does."""
    if fixed:
        study.enqueue_trial(fixed)
    storage = study._storage
    assert isinstance(storage, SnapshotStorage)
    office = LeaseManager(storage._backend, study._study_id, lease_s=30)
    lease = office.claim(10_000)
    assert lease is not None
    suggest = partial(SPACE.suggest, sample=shared.sample)
    trial, chosen = draw(study, lease.trial_id, make_sampler, suggest, SPACE.check, view=shared)
    assert office.set_params(lease, trial)
    office.close()
    return study.trials[trial.number], chosen


def test_rates_of_one_optimizer_teach_those_of_another(study: optuna.Study) -> None:
    """Of SGD there is no trial yet; without sharing its rates are drawn from all of the range."""

    def median(shared: SharedRanges) -> float:
        rates = []
        for _ in range(12):
            trial, _ = ask(study, shared, {TYPE: "SGD"})
            rates.append(trial.params[f"{RATE}[SGD]"])
        return statistics.median((math.log10(rate) + 2) / 2 for rate in rates)

    assert median(SharedRanges({})) > 0.3
    assert median(SHARED) < 0.2


def test_study_of_an_earlier_release_goes_on_with_its_names_and_values(
    study: optuna.Study,
) -> None:
    before = [(trial.params, trial.distributions) for trial in study.trials]
    for _ in range(6):
        trial, chosen = ask(study, SHARED)
        name = f"{RATE}[{trial.params[TYPE]}]"
        assert name in trial.params
        assert RATE not in trial.params
        assert chosen[RATE] == trial.params[name]
        low, high = ADAM if trial.params[TYPE] == "Adam" else SGD
        assert trial.distributions[name] == FloatDistribution(low, high, log=True)
        assert low <= trial.params[name] <= high
    assert [(trial.params, trial.distributions) for trial in study.trials[:30]] == before
    # And back again, as an earlier release or a plain script reads it.
    study.sampler = make_sampler(0)
    SPACE.suggest(study.ask())


@pytest.mark.parametrize("rate", [0.0123, 1e-2, 1.0, 0.1])
def test_value_that_a_trial_brings_is_taken_as_it_is(study: optuna.Study, rate: float) -> None:
    trial, chosen = ask(study, SHARED, {TYPE: "SGD", f"{RATE}[SGD]": rate})
    assert trial.params[f"{RATE}[SGD]"] == rate == chosen[RATE]


def test_trial_that_is_taken_over_keeps_its_values(study: optuna.Study) -> None:
    storage = study._storage
    assert isinstance(storage, SnapshotStorage)
    office = LeaseManager(storage._backend, study._study_id, lease_s=30)
    lease = office.claim(100)
    assert lease is not None
    suggest = partial(SPACE.suggest, sample=SHARED.sample)
    trial, chosen = draw(study, lease.trial_id, make_sampler, suggest, view=SHARED)
    office.set_params(lease, trial)
    office.give_back(lease)
    lease = office.claim(100)
    assert lease is not None
    again, values = draw(study, lease.trial_id, make_sampler, suggest, view=SHARED)
    assert (again.params, values) == (trial.params, chosen)
    office.close()


def test_positions_are_values_again() -> None:
    for log in (False, True):
        values = Range(0.001, 0.3, log=log)
        assert values.position(0.001) == 0
        assert values.position(0.3) == 1
        for position in (0, 0.1, 0.5, 1):
            assert values.position(values.at(position)) == pytest.approx(position)
    assert Range(0.01, 1, log=True).at(0.5) == pytest.approx(0.1)
    assert Range(0, 4).at(0.25) == 1


def test_only_ranges_of_one_field_under_conditions_are_shared() -> None:
    assert set(SHARED.dimensions) == {f"{RATE}[Adam]", f"{RATE}[SGD]"}
    plain = Dimension(RATE, Range(1e-4, 1e-2, log=True))
    assert not SharedRanges.of(SPACE.with_dimension(plain)).dimensions
    whole = [
        Dimension("data.batch_size", Range(4, 16, is_integer=True), (TYPE, name))
        for name in ("Adam", "SGD")
    ]
    both = SearchSpace((*SPACE.dimensions, *whole, plain))
    assert not SharedRanges.of(both).dimensions


def test_a_scripts_trial_with_a_value_beyond_the_range_is_shown_as_it_is(
    study: optuna.Study,
) -> None:
    trial = study.trials[0]
    trial.params = {TYPE: "Adam", f"{RATE}[Adam]": 0.0}
    assert SHARED.shown(trial) is trial
