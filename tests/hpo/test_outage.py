"""An outage of the database costs time, wherever in a transaction it comes."""

from __future__ import annotations

import threading

import optuna
import pytest
from optuna.storages import get_storage
from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.exc import OperationalError

from hpo.store.database import DatabaseRetry, close_storage, open_storage

OWN_SESSION = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
END_SESSION = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mysql", marks=pytest.mark.mysql),
    ],
    indirect=True,
)
def test_connection_lost_while_trials_are_read_is_waited_for(url: str) -> None:
    storage = open_storage(url)
    study = optuna.create_study(study_name="s", storage=get_storage(storage))
    study.add_trial(optuna.trial.create_trial(value=1.0))
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    num_ended = 0

    @event.listens_for(storage.engine, "before_cursor_execute")
    def end_session(_connection, cursor, statement, *_) -> None:
        nonlocal num_ended
        if num_ended == 0 and "FROM trial_user_attributes" in statement:
            num_ended += 1
            cursor.execute(OWN_SESSION[storage.engine.name])
            (session,) = cursor.fetchone()
            with admin.connect() as other:
                other.execute(text(END_SESSION[storage.engine.name].format(session)))

    warnings: list[str] = []
    retry = DatabaseRetry(storage.engine.url, threading.Event(), warnings.append)
    trials = retry.call(study.get_trials)
    assert [trial.value for trial in trials] == [1.0]
    assert num_ended == 1
    assert len(warnings) == 1, warnings
    assert "does not answer" in warnings[0]
    admin.dispose()
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
