"""An outage of the database costs time, wherever in a transaction it comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
import pytest
from optuna.storages import get_storage
from optuna.trial import TrialState
from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError

from hpo.store.claim import Lease
from hpo.store.database import DatabaseRetry, close_storage, open_storage
from hpo.store.lease import LeaseManager

OWN_SESSION = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
END_SESSION = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}


SERVERS = pytest.mark.parametrize(
    "url",
    [
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mysql", marks=pytest.mark.mysql),
    ],
    indirect=True,
)


@contextmanager
def ending_session_at(words: str, engine: Engine) -> Iterator[None]:
    """End the session that comes to such a statement, once, before it does it."""
    admin = create_engine(engine.url, isolation_level="AUTOCOMMIT")
    num_ended = 0

    def end_session(_connection, cursor, statement, *_) -> None:
        nonlocal num_ended
        if num_ended == 0 and words in statement:
            num_ended += 1
            cursor.execute(OWN_SESSION[engine.name])
            (session,) = cursor.fetchone()
            with admin.connect() as other:
                other.execute(text(END_SESSION[engine.name].format(session)))

    event.listen(engine, "before_cursor_execute", end_session)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", end_session)
        admin.dispose()
    assert num_ended == 1


@SERVERS
def test_connection_lost_while_trials_are_read_is_waited_for(url: str) -> None:
    storage = open_storage(url)
    study = optuna.create_study(study_name="s", storage=get_storage(storage))
    study.add_trial(optuna.trial.create_trial(value=1.0))
    warnings: list[str] = []
    retry = DatabaseRetry(storage.engine.url, threading.Event(), warnings.append)
    with ending_session_at("FROM trial_user_attributes", storage.engine):
        trials = retry.call(study.get_trials)
    assert [trial.value for trial in trials] == [1.0]
    assert len(warnings) == 1, warnings
    assert "does not answer" in warnings[0]
    close_storage(storage)


def test_slot_that_fails_while_another_succeeds_waits() -> None:
    retry = DatabaseRetry(
        make_url("sqlite://"), threading.Event(), warn=lambda _: retry.succeeded()
    )
    answers = iter([OperationalError("SELECT 1", None, Exception("gone")), "back"])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retry.call(ask) == "back"


WAITING = {
    "set_params": lambda manager, lease, trial: manager.set_params(lease, trial),
    "annotate": lambda manager, lease, _: manager.annotate(lease, {"note": 1}),
    "begin": lambda manager, lease, _: manager.begin(lease, keep=(), attributes={"note": 1}),
    "start_again": lambda manager, lease, _: manager.start_again(lease) is not None,
    "finish": lambda manager, lease, _: manager.finish(lease, TrialState.COMPLETE, 0.5),
    "give_back": lambda manager, lease, _: manager.give_back(lease) is None,
}
AT_ONCE = {
    "renew": lambda manager, lease, _: manager.renew(lease),
    "report": lambda manager, lease, _: manager.report(lease, {1: 0.5}),
    "keep_steps": lambda manager, lease, _: manager.keep_steps(lease, ()),
    "give_back": lambda manager, lease, _: manager.give_back(lease, waits=False),
}


@contextmanager
def claimed(url: str, warnings: list[str]) -> Iterator[tuple[optuna.Study, LeaseManager, Lease]]:
    storage = open_storage(url)
    study = optuna.create_study(study_name="s", storage=get_storage(storage))
    retry = DatabaseRetry(storage.engine.url, threading.Event(), warnings.append)
    manager = LeaseManager(storage, study._study_id, lease_s=30, retry=retry)
    lease = manager.claim(1)
    assert lease is not None
    yield study, manager, lease
    manager.close()
    close_storage(storage)


@SERVERS
@pytest.mark.parametrize("what", WAITING)
def test_what_a_trial_writes_waits_for_the_database(url: str, what: str) -> None:
    warnings: list[str] = []
    with claimed(url, warnings) as (study, manager, lease):
        (trial,) = study.get_trials()
        with ending_session_at("UPDATE trial_heartbeats", manager._engine):
            assert WAITING[what](manager, lease, trial)
        (trial,) = study.get_trials()
        states = {"finish": TrialState.COMPLETE, "give_back": TrialState.WAITING}
        assert trial.state == states.get(what, TrialState.RUNNING)
    assert len(warnings) == 1, warnings
    assert "does not answer" in warnings[0]


@SERVERS
@pytest.mark.parametrize("what", AT_ONCE)
def test_what_is_asked_by_the_clock_does_not_wait(url: str, what: str) -> None:
    warnings: list[str] = []
    with claimed(url, warnings) as (study, manager, lease):
        with (
            ending_session_at("UPDATE trial_heartbeats", manager._engine),
            pytest.raises(DBAPIError),
        ):
            AT_ONCE[what](manager, lease, None)
        assert study.get_trials()[0].state == TrialState.RUNNING
    assert not warnings


@SERVERS
def test_claim_is_left_to_its_caller_who_knows_what_may_be_taken_by_then(url: str) -> None:
    warnings: list[str] = []
    with claimed(url, warnings) as (study, manager, _):
        with ending_session_at("FROM studies", manager._engine), pytest.raises(DBAPIError):
            manager.claim(2)
        assert len(study.get_trials()) == 1
        assert manager.claim(2) is not None
    assert not warnings
