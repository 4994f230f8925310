"""Reservations on real databases: exactly N trials, take-over, fencing."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import text
from support import wait_for

from hpo.errors import UsageError
from hpo.keys import IDENTITY
from hpo.store import claim, clock
from hpo.store.agreement import agree, start_over
from hpo.store.claim import Lease
from hpo.store.database import close_storage, open_storage
from hpo.store.lease import LeaseManager
from hpo.store.renewer import Renewer

HOUR_AGO = {
    "sqlite": "datetime('now', '-1 hour')",
    "postgresql": "now() - interval '1 hour'",
    "mysql": "now() - interval 1 hour",
}


def office_of(study: optuna.Study, lease_s: float = 30) -> LeaseManager:
    storage = study._storage._backend  # type: ignore[attr-defined]
    assert isinstance(storage, RDBStorage)
    return LeaseManager(storage, study._study_id, lease_s=lease_s)


def expire(study: optuna.Study, lease: Lease) -> None:
    """Make a lease look as if its owner had been silent for an hour."""
    storage = study._storage._backend  # type: ignore[attr-defined]
    past = HOUR_AGO[storage.engine.name]
    with storage.engine.begin() as connection:
        connection.execute(
            text(f"UPDATE trial_heartbeats SET heartbeat = {past} WHERE trial_id = :id"),
            {"id": lease.trial_id},
        )


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials(deepcopy=False)]


def test_claims_end_at_n_and_failures_do_not_count(study: optuna.Study) -> None:
    lease_manager = office_of(study)
    leases = [lease_manager.claim(3) for _ in range(4)]
    assert [lease is None for lease in leases] == [False, False, False, True]
    first = leases[0]
    assert first is not None
    study._storage.get_all_trials(study._study_id)
    study.tell(optuna.Trial(study, first.trial_id), state=TrialState.FAIL)
    assert lease_manager.claim(3) is not None
    assert lease_manager.claim(3) is None
    lease_manager.close()


def test_expired_trial_is_taken_over_in_place_with_its_parameters(study: optuna.Study) -> None:
    lease_manager = office_of(study)
    first = lease_manager.claim(2)
    assert first is not None
    study._storage.get_all_trials(study._study_id)
    trial = optuna.Trial(study, first.trial_id)
    value = trial.suggest_float("x", 0, 1)
    trial.report(0.5, 1)
    expire(study, first)
    second = lease_manager.claim(2)
    assert second is not None
    assert (second.trial_id, second.attempt) == (first.trial_id, 2)
    assert not lease_manager.renew(first)
    assert lease_manager.renew(second)
    taken = optuna.Trial(study, second.trial_id)
    assert taken.suggest_float("x", 0, 1) == value
    # The curve stays until the new owner knows where its worker goes on.
    assert study.get_trials()[0].intermediate_values == {1: 0.5}
    assert not lease_manager.keep_steps(first, ())
    assert lease_manager.keep_steps(second, ())
    assert study.get_trials()[0].intermediate_values == {}
    lease_manager.close()


def test_living_trial_is_not_taken_over(study: optuna.Study) -> None:
    lease_manager = office_of(study)
    assert lease_manager.claim(1) is not None
    assert lease_manager.claim(1) is None
    lease_manager.close()


def test_given_back_trial_is_taken_by_the_next(study: optuna.Study) -> None:
    lease_manager = office_of(study)
    first = lease_manager.claim(1)
    assert first is not None
    lease_manager.give_back(first)
    assert states(study) == [TrialState.WAITING]
    second = lease_manager.claim(1)
    assert second is not None
    assert (second.trial_id, second.attempt) == (first.trial_id, 2)
    lease_manager.close()


def test_late_give_back_does_not_disturb_the_new_owner(study: optuna.Study) -> None:
    lease_manager = office_of(study)
    first = lease_manager.claim(1)
    assert first is not None
    expire(study, first)
    second = lease_manager.claim(1)
    lease_manager.give_back(first)
    assert second is not None
    assert states(study) == [TrialState.RUNNING]
    assert lease_manager.renew(second)
    lease_manager.close()


WORKER = """
import sys, optuna
from optuna.storages import get_storage
from hpo.store.lease import LeaseManager
from hpo.store.database import close_storage, open_storage
rdb = open_storage(sys.argv[1])
study = optuna.create_study(study_name="s", storage=get_storage(rdb), direction="maximize",
                            load_if_exists=True)
office = LeaseManager(rdb, study._study_id, lease_s=30)
while (lease := office.claim(25)) is not None:
    study._storage.get_all_trials(study._study_id, deepcopy=False)
    study.tell(optuna.Trial(study, lease.trial_id), 1.0)
"""


def test_many_processes_make_exactly_n_trials(url: str) -> None:
    # On an empty database: creating its tables at the same time must not kill anyone either.
    processes = [
        subprocess.Popen([sys.executable, "-c", WORKER, url], stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, errors
    storage = open_storage(url)
    study = optuna.load_study(study_name="s", storage=storage)
    assert states(study) == [TrialState.COMPLETE] * 25
    close_storage(storage)


def test_trial_is_not_taken_from_its_owner_before_this_driver_is_steady(
    study: optuna.Study,
) -> None:
    lease_manager = office_of(study)
    first = lease_manager.claim(1)
    assert first is not None
    expire(study, first)
    assert lease_manager.claim(1, may_reap=False) is None
    lease_manager.give_back(first)
    assert lease_manager.claim(1, may_reap=False) is not None  # given back: nobody's
    lease_manager.close()


def test_what_a_former_owner_writes_is_refused(study: optuna.Study) -> None:
    lease_manager = office_of(study)
    first = lease_manager.claim(1)
    assert first is not None
    assert lease_manager.report(first, {1: 0.5})
    expire(study, first)
    second = lease_manager.claim(1)
    assert second is not None
    assert not lease_manager.report(first, {2: 0.9})
    assert not lease_manager.finish(first, TrialState.COMPLETE, 0.9)
    assert lease_manager.start_again(first) is None
    assert lease_manager.report(second, {1: 0.25, 2: 0.75})
    assert lease_manager.finish(second, TrialState.COMPLETE, 0.75, {"note": "done"})
    assert not lease_manager.finish(first, TrialState.FAIL)
    (trial,) = study.get_trials()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.75)
    assert trial.intermediate_values == {1: 0.25, 2: 0.75}
    assert trial.user_attrs["note"] == "done"
    assert trial.datetime_complete is not None
    lease_manager.close()


def test_what_a_former_owner_writes_during_a_take_over_is_refused(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    former, lease_manager = office_of(study), office_of(study)
    first = former.claim(1)
    assert first is not None
    expire(study, first)
    is_taking, may_go_on = threading.Event(), threading.Event()
    count_attempt = claim._continue

    def wait_inside(*arguments: Any, **named: Any) -> Lease:
        is_taking.set()
        assert may_go_on.wait(60)
        return count_attempt(*arguments, **named)

    monkeypatch.setattr(claim, "_continue", wait_inside)
    with ThreadPoolExecutor() as pool:
        taking = pool.submit(lease_manager.claim, 1)
        assert is_taking.wait(60)
        writing = pool.submit(former.report, first, {1: 0.9})
        assert wait([writing], timeout=0.5).not_done  # it waits in the database
        may_go_on.set()
        second = taking.result()
        assert not writing.result()
    assert second is not None
    assert lease_manager.renew(second)
    assert study.get_trials()[0].intermediate_values == {}
    former.close()
    lease_manager.close()


def test_owner_that_hears_nothing_of_its_own_end_knows_it_by_the_token(
    study: optuna.Study,
) -> None:
    lease_manager = office_of(study)
    lease = lease_manager.claim(1)
    assert lease is not None
    assert lease_manager.finish(lease, TrialState.PRUNED)
    assert lease_manager.finish(lease, TrialState.PRUNED)  # the connection broke after the commit
    lease_manager.close()


def test_attempts_and_crashes_are_counted_in_the_database(study: optuna.Study) -> None:
    lease_manager = office_of(study)
    lease = lease_manager.claim(1)
    assert lease is not None
    again = lease_manager.start_again(lease)
    assert again is not None
    assert (again.attempt, again.num_crashes) == (2, 1)
    expire(study, again)
    taken = lease_manager.claim(1)
    assert taken is not None
    assert (taken.attempt, taken.num_crashes) == (3, 1)
    lease_manager.close()


def test_drivers_that_die_in_a_row_without_an_epoch_more_are_counted(study: optuna.Study) -> None:
    lease_manager = office_of(study)
    counted = []
    lease = lease_manager.claim(1)
    for epoch in (None, None, 1, 1, 2):
        assert lease is not None
        if epoch is not None:
            assert lease_manager.report(lease, {epoch: 0.5})
        expire(study, lease)
        lease = lease_manager.claim(1)
        assert lease is not None
        counted.append(lease.num_deaths)
    assert counted == [1, 2, 1, 2, 1]
    lease_manager.give_back(lease)
    given = lease_manager.claim(1)
    assert given is not None
    assert given.num_deaths == 0
    lease_manager.close()


def test_of_two_searches_that_start_in_one_study_one_goes_on(study: optuna.Study) -> None:
    storage = study._storage._backend  # type: ignore[attr-defined]
    first, second = {"search": "a"}, {"search": "b"}
    known = agree(storage, study._study_id, {IDENTITY: first})
    assert known == agree(storage, study._study_id, {IDENTITY: second}) == {IDENTITY: first}
    # Neither has a trial yet, so the second one makes the study its own.
    assert start_over(storage, study._study_id, second)
    offices = [
        LeaseManager(storage, study._study_id, lease_s=30, identity=identity)
        for identity in (first, second)
    ]
    with pytest.raises(UsageError, match="searches something else"):
        offices[0].claim(1)
    assert offices[1].claim(1) is not None
    assert not start_over(storage, study._study_id, first)
    for lease_manager in offices:
        lease_manager.close()


def test_largest_number_of_trials_holds_for_all_drivers(study: optuna.Study) -> None:
    small, large = office_of(study), office_of(study)
    assert small.num_trials(1) == 1
    assert large.claim(3) is not None
    assert small.num_trials(1) == 3
    assert [small.claim(1) is None for _ in range(3)] == [False, False, True]
    assert small.total == 3
    small.close()
    large.close()


def test_time_zone_of_a_client_does_not_make_leases_expire(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease_manager = office_of(study)
    assert lease_manager.claim(1) is not None
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    other = open_storage(study._storage._backend.url)  # type: ignore[attr-defined]
    elsewhere = LeaseManager(other, study._study_id, lease_s=30)
    assert elsewhere.claim(1) is None
    elsewhere.close()
    lease_manager.close()
    close_storage(other)


def test_given_back_trial_that_a_script_takes_is_the_script_s(study: optuna.Study) -> None:
    lease_manager = office_of(study)
    first = lease_manager.claim(1)
    assert first is not None
    lease_manager.give_back(first)
    taken = study.ask()
    assert taken._trial_id == first.trial_id
    expire(study, first)
    second = lease_manager.claim(1)  # what a script runs is not waited for either
    assert second is not None
    assert second.trial_id != first.trial_id
    assert not lease_manager.finish(first, TrialState.COMPLETE, 0.9)
    study.tell(taken, 0.5)
    lease_manager.close()


def test_driver_never_takes_a_trial_from_itself(study: optuna.Study) -> None:
    lease_manager = office_of(study)
    first = lease_manager.claim(1)
    assert first is not None
    expire(study, first)  # as after a night in which the machine slept
    assert lease_manager.claim(1, held=[first.token]) is None
    assert lease_manager.renew(first)
    expire(study, first)
    assert lease_manager.claim(1, held=["another"]) is not None
    lease_manager.close()


def test_driver_that_wakes_from_suspend_reaps_nobody_before_a_lease_is_over(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease_manager = office_of(study, lease_s=1)
    lease = lease_manager.claim(1)
    assert lease is not None
    renewer = Renewer(lease_manager)
    renewer.hold(lease)
    wait_for(lambda: renewer.is_steady)
    read = clock.seconds
    monkeypatch.setattr(clock, "seconds", lambda: read() + 3600)  # an hour of sleep
    assert not renewer.is_steady
    wait_for(lambda: renewer.is_steady)
    assert not renewer.is_lost(lease)
    assert renewer.tokens == [lease.token]
    renewer.close()
    lease_manager.close()
