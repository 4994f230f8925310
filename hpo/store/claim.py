"""Takes a trial of a study, inside the transaction that holds the study's lock."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, false, func, insert, update

from hpo.keys import ATTEMPT, BEGAN, CRASHES, DEATHS, PAUSED, SPENT, TOKEN, UNTIL
from hpo.records import began_text
from hpo.store import clock
from hpo.store.available import Free, find, find_free
from hpo.store.trial_rows import TrialRows

_Trial, _Heartbeat = models.TrialModel, models.TrialHeartbeatModel


@dataclass(frozen=True)
class Lease:
    """The right to run one trial, as long as it is renewed.

    Attributes:
        trial_id: the database's id of the trial.
        token: proves that the lease is still ours.
        attempt: 1 for a new trial, one more at each take-over and each new start.
        num_crashes: how many attempts ended in a crash of the worker.
        num_deaths: how many drivers fell silent with it, since it last got an epoch further.
        until: the epoch after which it pauses next; 0 for the first rung.
        was_paused: it is promoted, so that its last worker has ended and left its state.
        ends: no time is left for it: it ends with what it has reached.
        spent: seconds of the attempts before, see `hpo.results.provenance.Stopwatch`.
    """

    trial_id: int
    token: str
    attempt: int
    num_crashes: int = 0
    num_deaths: int = 0
    until: int = 0
    was_paused: bool = False
    ends: bool = False
    spent: Mapping[str, float] = field(default_factory=dict)


def start_new(connection: Connection, study_id: int, token: str, number: int) -> Lease:
    """Insert a trial; its number is how many there are."""
    trial = insert(_Trial).values(
        number=number,
        study_id=study_id,
        state=TrialState.RUNNING,
        datetime_start=clock.utc_now(),
    )
    key: Any = connection.execute(trial).inserted_primary_key
    trial_id = int(key.trial_id)
    connection.execute(insert(_Heartbeat).values(trial_id=trial_id))
    TrialRows(connection, trial_id).annotate({TOKEN: token, ATTEMPT: 1})
    return Lease(trial_id, token, attempt=1)


def take_over(
    connection: Connection,
    study_id: int,
    token: str,
    is_late: ColumnElement[bool],
    spared: Collection[str] | None,
    *,
    begun_only: bool = False,
) -> Lease | None:
    """Take a trial that waits, or whose owner fell silent with it; None if there is none.

    Args:
        connection: of the transaction.
        study_id: the study's.
        token: whose the trial is from then on.
        is_late: says of a heartbeat that the lease is over.
        spared: tokens of owners that are spared, however late they are; None spares everybody.
        begun_only: leave what was enqueued, and nobody has begun, in the queue.
    """
    found = find_free(connection, study_id, is_late, spared, begun_only=begun_only)
    if found is None:
        return None
    return _take(connection, token, found, is_late)


def promote(connection: Connection, token: str, trial_id: int, until: int) -> Lease | None:
    """Take a trial that is paused, to train it until another epoch."""
    lease = _take(connection, token, find(connection, trial_id), false())
    if lease is None:
        return None
    rows = TrialRows(connection, trial_id)
    rows.forget(PAUSED)
    rows.annotate({UNTIL: until})
    return replace(lease, until=until, was_paused=True)


def _take(
    connection: Connection,
    token: str,
    found: Free,
    is_late: ColumnElement[bool],
) -> Lease | None:
    trial_id, state, heartbeat, started = found
    beat = update(_Heartbeat).where(_Heartbeat.trial_id == trial_id)
    if state == TrialState.RUNNING:
        beat = beat.where(is_late)
    if heartbeat is None:
        connection.execute(insert(_Heartbeat).values(trial_id=trial_id))
    elif connection.execute(beat.values(heartbeat=func.current_timestamp())).rowcount != 1:
        return None  # its owner has come back in this very moment
    taken = connection.execute(
        update(_Trial)
        .where(_Trial.trial_id == trial_id, _Trial.state == state)
        # Else the time between the attempts would count as the trial's.
        .values(state=TrialState.RUNNING, datetime_start=clock.utc_now())
    )
    if taken.rowcount != 1:
        return None
    rows = TrialRows(connection, trial_id)
    return _continue(rows, token, started, has_died=state == TrialState.RUNNING)


def _continue(
    rows: TrialRows, token: str, started: dt.datetime | None, *, has_died: bool
) -> Lease:
    """Count the next attempt at a trial that was taken over, and keep when the first began."""
    known = rows.attributes((ATTEMPT, BEGAN, CRASHES, DEATHS, UNTIL, SPENT))
    written = {TOKEN: token, ATTEMPT: 1 + known.get(ATTEMPT, 0)}
    if BEGAN not in known and started is not None:
        written[BEGAN] = began_text(started)
    num_deaths = 0
    if has_died:
        before, last_epoch = known.get(DEATHS, (0, 0))
        epoch = rows.last_step()
        num_deaths = 1 if epoch > last_epoch else before + 1
        written[DEATHS] = [num_deaths, max(epoch, last_epoch)]
    if ATTEMPT not in known:  # a script has enqueued it, with whatever values
        rows.keep_steps(())
    rows.annotate(written)
    return Lease(
        rows.trial_id,
        token,
        written[ATTEMPT],
        known.get(CRASHES, 0),
        num_deaths,
        until=known.get(UNTIL, 0),
        spent=known.get(SPENT, {}),
    )
