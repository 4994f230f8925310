"""Which trials of a study are taken, and which may be, as one transaction sees them.

A trial that runs without a token is a plain Optuna script's: never taken, and not waited for.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection
from typing import Any, NamedTuple

from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, case, func, select
from sqlalchemy.orm import aliased

from hpo.keys import ATTEMPT, PAUSED, TOKEN

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

_Trial, _Heartbeat = models.TrialModel, models.TrialHeartbeatModel
_Attribute = models.TrialUserAttributeModel
_Paused, _Attempt = aliased(_Attribute), aliased(_Attribute)
# The column itself: the model's attribute of that name is converted to local time.
STARTED: Any = _Trial.__table__.c.datetime_start
_FREE: Any = select(_Trial.trial_id, _Trial.state, _Heartbeat.heartbeat, STARTED).outerjoin(
    _Heartbeat, _Heartbeat.trial_id == _Trial.trial_id
)


def is_dead(now: dt.datetime, lease_s: float) -> ColumnElement[bool]:
    """Say of a heartbeat whether the lease is over."""
    expired = now - dt.timedelta(seconds=lease_s)
    return _Heartbeat.heartbeat.is_(None) | (_Heartbeat.heartbeat < expired)


class Free(NamedTuple):
    """A trial that may be taken."""

    trial_id: int
    state: TrialState
    heartbeat: dt.datetime | None
    started: dt.datetime | None  # UTC, as the column has it


def find(connection: Connection, trial_id: int) -> Free:
    """Return a trial by its id."""
    return Free(*connection.execute(_FREE.where(_Trial.trial_id == trial_id)).one())


def find_free(
    connection: Connection,
    study_id: int,
    is_dead: ColumnElement[bool],
    spared: Collection[str] | None,
    *,
    begun_only: bool = False,
) -> Free | None:
    """Return the first trial that may be taken.

    First come those of silent drivers, then what was given back, then what somebody has enqueued;
    a trial that is paused waits for `hpo.store.pausing`.

    What runs is only taken if a driver of ours has it that fell silent, under none of the spared
    tokens; with None it is never taken. With `begun_only` what was enqueued stays in the queue.
    """
    is_free = (_Trial.state == TrialState.WAITING) & _Paused.key.is_(None)
    if begun_only:
        is_free &= _Attempt.key.is_not(None)
    if spared is not None:
        tokens = [json.dumps(token) for token in spared]
        is_anothers = _Attribute.key.is_not(None) & _Attribute.value_json.not_in(tokens)
        is_free |= (_Trial.state == TrialState.RUNNING) & is_dead & is_anothers
    found: Any = connection.execute(
        _FREE.outerjoin(_Attribute, _has_token())
        .outerjoin(_Paused, (_Paused.trial_id == _Trial.trial_id) & (_Paused.key == PAUSED))
        .outerjoin(_Attempt, (_Attempt.trial_id == _Trial.trial_id) & (_Attempt.key == ATTEMPT))
        .where(_Trial.study_id == study_id, is_free)
        .order_by(
            case((_Trial.state == TrialState.RUNNING, 0), (_Attempt.key.is_not(None), 1), else_=2),
            _Trial.trial_id,
        )
        .limit(1)
    ).first()
    return found and Free(*found)


def count_trials(connection: Connection, study_id: int) -> tuple[int, int]:
    """Return how many trials a study has, and how many of them are taken."""
    is_open = _Trial.state.in_((TrialState.FAIL, TrialState.RUNNING))
    num_running = (
        select(func.count())
        .select_from(_Trial)
        .join(_Attribute, _has_token())
        .where(_Trial.study_id == study_id, _Trial.state == TrialState.RUNNING)
    )
    num_all, num_other, num_ours = connection.execute(
        select(func.count(), func.count(case((~is_open, 1))), num_running.scalar_subquery()).where(
            _Trial.study_id == study_id
        )
    ).one()
    return num_all, num_other + num_ours


def count_finished(connection: Connection, study_id: int) -> int:
    """Return how many trials count towards the total."""
    query = select(func.count()).where(_Trial.study_id == study_id, _Trial.state.in_(_FINISHED))
    return connection.scalar(query) or 0


def is_any_open(connection: Connection, study_id: int) -> bool:
    """Say whether one of our trials runs, or was begun and waits."""
    query = (
        select(_Trial.trial_id)
        .outerjoin(_Attribute, _has_token())
        .outerjoin(_Attempt, (_Attempt.trial_id == _Trial.trial_id) & (_Attempt.key == ATTEMPT))
        .where(
            _Trial.study_id == study_id,
            ((_Trial.state == TrialState.RUNNING) & _Attribute.key.is_not(None))
            | ((_Trial.state == TrialState.WAITING) & _Attempt.key.is_not(None)),
        )
    )
    return connection.scalar(query.limit(1)) is not None


def _has_token() -> ColumnElement[bool]:
    return (_Attribute.trial_id == _Trial.trial_id) & (_Attribute.key == TOKEN)
