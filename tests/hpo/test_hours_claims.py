"""A budget of time in real databases: what holds, what is handed out, what is told at its end."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState
from sqlalchemy import text
from test_lease import HOUR_AGO, expire
from test_pausing_claims import number_of, pause, rule, states

from hpo.keys import BUDGET, END
from hpo.store.claim import Lease
from hpo.store.lease import LeaseManager
from hpo.store.pausing import KnownTrial


@dataclass(frozen=True)
class Plan:
    """A rule that allows what it is told to."""

    starts: bool = True
    fitting: Collection[int] = range(99)

    def may_start(self, known: Sequence[KnownTrial], left_s: float) -> bool:
        return self.starts and left_s > 0

    def may_go_on(self, known: Sequence[KnownTrial], left_s: float) -> set[int]:
        return set(self.fitting) if left_s > 0 else set()


def claim(office: LeaseManager, plan: Plan, num_trials: int = 99) -> Lease | None:
    return office.claim(num_trials, promotion=rule(), planning=plan)


def new(office: LeaseManager) -> Lease:
    lease = claim(office, Plan(fitting=()))
    assert lease is not None
    assert (lease.attempt, lease.ends) == (1, False)
    return lease


def let_time_pass(study: optuna.Study, office: LeaseManager) -> None:
    budget = study.user_attrs[BUDGET]
    study.set_user_attr(BUDGET, budget | {"began": budget["began"] - 3600 * budget["hours"] - 1})
    assert office.budget.read() is not None
    assert office.budget.is_over()


def test_most_hours_that_were_asked_for_hold_from_the_first_start_on(
    study: optuna.Study, office: LeaseManager
) -> None:
    assert office.budget.ask(None) is None
    assert BUDGET not in study.user_attrs
    first = office.budget.ask(2.0)
    assert first is not None
    assert (first.hours, first.is_done) == (2.0, False)
    assert abs(first.spent_s) < 60
    assert 7100 < first.left_s < 7260
    began = study.user_attrs[BUDGET]["began"]
    for wanted, holds in ((1.0, 2.0), (3.5, 3.5), (None, 3.5)):
        budget = office.budget.ask(wanted)
        assert budget is not None
        assert budget.hours == holds
        assert study.user_attrs[BUDGET]["began"] == began


def pause_three(office: LeaseManager) -> None:
    """Give the study an hour, and three paused trials, of which the second is the best."""
    office.budget.ask(1.0)
    for lease, value in zip([new(office) for _ in range(3)], (0.1, 0.3, 0.2), strict=True):
        assert pause(office, lease, value)


def test_only_what_fits_goes_on_and_else_a_trial_is_started(
    study: optuna.Study, office: LeaseManager
) -> None:
    pause_three(office)
    assert number_of(study, claim(office, Plan(fitting=()))) == 3
    assert number_of(study, claim(office, Plan(starts=False, fitting=(0,)))) == 0
    assert claim(office, Plan(starts=False, fitting=())) is None  # two run
    assert states(study) == ["RUNNING", "WAITING", "WAITING", "RUNNING"]


def test_best_trial_that_is_paused_at_the_end_is_handed_out_to_be_ended(
    study: optuna.Study, office: LeaseManager
) -> None:
    pause_three(office)
    study.enqueue_trial({"x": 1})  # stays in the queue
    let_time_pass(study, office)
    lease = claim(office, Plan())
    assert lease is not None
    assert (number_of(study, lease), lease.ends, lease.was_paused) == (1, True, True)
    assert claim(office, Plan()) is None  # while it is being ended
    assert not study.user_attrs[BUDGET].get("is_done")
    # Its driver dies; who takes it over is to end it, too.
    expire(study, lease)
    again = claim(office, Plan())
    assert again is not None
    assert (number_of(study, again), again.ends) == (1, True)
    assert office.finish(again, TrialState.PRUNED, 0.3)
    assert claim(office, Plan()) is None
    assert states(study) == ["PRUNED", "PRUNED", "PRUNED", "WAITING"]
    assert study.get_trials()[0].user_attrs[END]["end"] == "pruned"
    assert study.user_attrs[BUDGET]["is_done"]
    # More time, and it is not done any more.
    office.budget.ask(9.0)
    assert number_of(study, claim(office, Plan())) == 3
    assert not study.user_attrs[BUDGET].get("is_done")


def test_trials_that_were_begun_are_ended_and_those_in_the_queue_stay_there(
    study: optuna.Study, office: LeaseManager
) -> None:
    office.budget.ask(1.0)
    given_back, dead = new(office), new(office)
    study.enqueue_trial({"x": 1})
    office.give_back(given_back)
    let_time_pass(study, office)
    assert (lease := claim(office, Plan())) is not None
    assert (number_of(study, lease), lease.ends) == (0, True)
    assert office.finish(lease, TrialState.FAIL)
    assert claim(office, Plan()) is None
    assert not study.user_attrs[BUDGET].get("is_done")  # one still runs
    expire(study, dead)
    assert (lease := claim(office, Plan())) is not None
    assert (number_of(study, lease), lease.ends) == (1, True)
    assert office.finish(lease, TrialState.FAIL)
    assert claim(office, Plan()) is None
    assert states(study) == ["FAIL", "FAIL", "WAITING"]
    assert study.user_attrs[BUDGET]["is_done"]


def test_best_trial_whose_state_is_elsewhere_is_left_to_its_host_until_that_is_silent(
    study: optuna.Study, office: LeaseManager
) -> None:
    office.budget.ask(1.0)
    assert pause(office, new(office), 0.5, pausing=rule(Path("elsewhere")))
    let_time_pass(study, office)
    assert claim(office, Plan()) is None
    assert states(study) == ["WAITING"]
    assert not study.user_attrs[BUDGET].get("is_done")
    storage = study._storage._backend  # type: ignore[attr-defined]
    with storage.engine.begin() as connection:
        past = HOUR_AGO[storage.engine.name]
        connection.execute(text(f"UPDATE trial_heartbeats SET heartbeat = {past}"))
    lease = claim(office, Plan())
    assert lease is not None
    assert lease.ends
