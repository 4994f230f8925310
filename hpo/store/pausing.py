"""Goes on with paused trials, or starts new ones, inside the transaction that claims a trial.

A trial is paused if it waits and has the attribute PAUSED, which is written in the transaction
that gives it back. It is one of the N that were asked for.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol

from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Connection, func, select
from sqlalchemy.orm import aliased

from hpo.keys import END, PAUSED, SPENT, TOKEN
from hpo.records import PauseRecord
from hpo.store.available import STARTED, count_trials
from hpo.store.claim import Lease, promote, start_new
from hpo.store.trial_rows import TrialRows
from trainer.direction import Direction

MAX_TOLD = 50  # trials in one transaction, for which all drivers wait

_Trial, _Value = models.TrialModel, models.TrialIntermediateValueModel
_Heartbeat, _Attribute = models.TrialHeartbeatModel, models.TrialUserAttributeModel
_Token = aliased(_Attribute)


@dataclass(frozen=True)
class KnownTrial:
    """A trial that has not failed, as all drivers see it.

    Attributes:
        values: score after each epoch, from the first on, as it was measured.
        paused: where it waits at a rung, None if it does not.
        seconds: what it took so far (`hpo.results.provenance.Stopwatch`), where that is asked for.
    """

    trial_id: int
    number: int
    state: TrialState
    started: dt.datetime | None
    values: tuple[float, ...]
    paused: PauseRecord | None
    seconds: Mapping[str, float] = field(default_factory=dict)


class Promotion(Protocol):
    """The rule by which paused trials go on, for one driver."""

    def choose(
        self,
        known: Sequence[KnownTrial],
        here: Collection[int] | None,
        *,
        all_started: bool,
        is_timed: bool,
    ) -> int | None:
        """Return the number of the paused trial to go on with, None if there is none.

        Args:
            known: all trials of the study.
            here: those that may be gone on with; None if any may.
            all_started: no further trial will be started.
            is_timed: the time that is left decides how much is spent.
        """
        ...

    def until(self, epoch: int) -> int:
        """Return the epoch up to which a trial is trained that was paused after `epoch`."""
        ...

    def can_read(self, number: int, paused: PauseRecord) -> bool:
        """Say whether the state of a trial is here."""
        ...


class Planning(Protocol):
    """The rule by which a search makes use of the time that is left to it."""

    def may_start(self, known: Sequence[KnownTrial], left_s: float) -> bool:
        """Say whether another trial may be started."""
        ...

    def may_go_on(self, known: Sequence[KnownTrial], left_s: float) -> set[int]:
        """Return the numbers of the paused trials that may go on."""
        ...


@dataclass(frozen=True)
class TimeLeft:
    """The seconds until a study's budget is over, and the rule by which they are used."""

    planning: Planning
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Terms:
    """By what a trial is chosen.

    Attributes:
        total: N.
        promotion: the rule, None where no trial is ever paused.
        here: numbers of the paused trials whose state this driver can read.
        expired: a lease that was renewed before is over.
        direction: which of two scores is the better one.
        time: None for a study without a budget of time.
    """

    total: int
    promotion: Promotion | None
    here: Collection[int]
    expired: dt.datetime
    direction: Direction
    time: TimeLeft | None = None


def promote_or_start(
    connection: Connection, study_id: int, token: str, terms: Terms
) -> Lease | None:
    """Go on with a paused trial, or start one if fewer than N are not failed and time is left.

    Where nothing runs and none may go on, the paused ones are told as pruned. One that may, but
    whose state is on another host, is left to that host until all have been silent for a lease;
    then it is trained anew. Where time has cut the search short, the best of all may be among
    those that are paused: it is handed out to be ended, with its model.

    Args:
        connection: of the transaction.
        study_id: the study's.
        token: whose the trial is from then on.
        terms: what decides.
    """
    num_all, num_taken = count_trials(connection, study_id)
    all_started = num_taken >= terms.total
    known: list[KnownTrial] = []
    if terms.promotion is not None or terms.time is not None:
        known = read_known(
            connection, study_id, terms.direction, with_seconds=terms.time is not None
        )
    if terms.time is not None and not all_started:
        all_started = not terms.time.planning.may_start(known, terms.time.seconds)
    waiting = [each for each in known if each.paused is not None]
    if terms.promotion is not None:
        number, ends = _choose(known, terms, terms.here, all_started=all_started), False
        if number is None and all_started and waiting and not _is_any_open(known, terms):
            number = _choose(known, terms, None, all_started=True)
            if number is None and terms.time is not None:
                number, ends = _best_if_paused(known, terms.direction), True
            if number is None:
                _tell_pruned(connection, token, waiting[:MAX_TOLD], terms.direction)
                return None
            if number not in terms.here and not _is_silent(connection, study_id, terms.expired):
                return None
        if number is not None:
            chosen = next(each for each in waiting if each.number == number)
            assert chosen.paused is not None
            until = terms.promotion.until(int(chosen.paused["epoch"]))
            lease = promote(connection, token, chosen.trial_id, until)
            return lease and replace(lease, ends=ends)
    return None if all_started else start_new(connection, study_id, token, num_all)


def _choose(
    known: Sequence[KnownTrial],
    terms: Terms,
    here: Collection[int] | None,
    *,
    all_started: bool,
) -> int | None:
    """Return the number of the paused trial to go on with; `here` are those that may, None any."""
    assert terms.promotion is not None
    if terms.time is not None:
        fitting = terms.time.planning.may_go_on(known, terms.time.seconds)
        here = fitting if here is None else fitting.intersection(here)
    return terms.promotion.choose(
        known, here, all_started=all_started, is_timed=terms.time is not None
    )


def _best_if_paused(known: Sequence[KnownTrial], direction: Direction) -> int | None:
    """Return the number of the best trial, if that is paused."""
    scored = [each for each in known if each.values]
    best = max(
        scored,
        key=lambda each: direction.rank(direction.best(each.values), each.number),
        default=None,
    )
    return best.number if best is not None and best.paused is not None else None


def read_paused(connection: Connection, study_id: int) -> dict[int, PauseRecord]:
    """Return number -> attribute PAUSED of the trials that are paused."""
    rows = connection.execute(
        select(_Trial.number, _Attribute.value_json)
        .join(_Attribute, _Attribute.trial_id == _Trial.trial_id)
        .where(
            _Trial.study_id == study_id,
            _Trial.state == TrialState.WAITING,
            _Attribute.key == PAUSED,
        )
    )
    return {number: json.loads(text) for number, text in rows}


def read_known(
    connection: Connection, study_id: int, direction: Direction, *, with_seconds: bool = False
) -> list[KnownTrial]:
    """Return our trials that have not failed, with their curves, and what they took if asked."""
    is_theirs = _Token.key.is_(None) & (_Trial.state != TrialState.WAITING)
    columns: Any = (_Trial.trial_id, _Trial.number, _Trial.state, STARTED)
    trials: Any = connection.execute(
        select(*columns, _Attribute.value_json)
        .outerjoin(
            _Attribute, (_Attribute.trial_id == _Trial.trial_id) & (_Attribute.key == PAUSED)
        )
        .outerjoin(_Token, (_Token.trial_id == _Trial.trial_id) & (_Token.key == TOKEN))
        .where(_Trial.study_id == study_id, _Trial.state != TrialState.FAIL, ~is_theirs)
        .order_by(_Trial.number)
    ).all()
    points: Any = connection.execute(
        select(_Value.trial_id, _Value.step, _Value.intermediate_value)
        .join(_Trial, _Trial.trial_id == _Value.trial_id)
        .where(_Trial.study_id == study_id, _Value.intermediate_value.is_not(None))
        .order_by(_Value.trial_id, _Value.step)
    )
    curves = {
        trial_id: {row.step: row.intermediate_value for row in rows}
        for trial_id, rows in groupby(points, key=lambda row: row.trial_id)
    }
    seconds = _read_seconds(connection, study_id) if with_seconds else {}
    return [
        KnownTrial(
            trial_id,
            number,
            state,
            began,
            _by_epoch(curves.get(trial_id, {}), direction),
            json.loads(text) if state == TrialState.WAITING and text else None,
            seconds.get(trial_id, {}),
        )
        for trial_id, number, state, began, text in trials
    ]


def _read_seconds(connection: Connection, study_id: int) -> dict[int, dict[str, float]]:
    """Return what trials took, by their end, else by the attempts that gave them back."""
    rows = connection.execute(
        select(_Attribute.trial_id, _Attribute.key, _Attribute.value_json)
        .join(_Trial, _Trial.trial_id == _Attribute.trial_id)
        .where(_Trial.study_id == study_id, _Attribute.key.in_((SPENT, END)))
    )
    found: dict[int, dict[str, float]] = {}
    for trial_id, key, text in rows:
        record = json.loads(text)
        record = record.get("seconds") if key == END and isinstance(record, dict) else record
        if isinstance(record, dict) and (key == END or trial_id not in found):
            found[trial_id] = record
    return found


def _by_epoch(curve: Mapping[int, float], direction: Direction) -> tuple[float, ...]:
    """Return a curve without gaps: an engine may leave out epochs."""
    values: list[float] = []
    for epoch in range(1, max(curve, default=0) + 1):
        before = values[-1] if values else direction.worst(curve.values())
        values.append(curve.get(epoch, before))
    return tuple(values)


def _is_any_open(known: Sequence[KnownTrial], terms: Terms) -> bool:
    """Say whether a trial runs, or waits to; once the time is over, none in the queue does."""
    is_over = terms.time is not None and terms.time.seconds <= 0
    return any(
        not each.state.is_finished()
        and each.paused is None
        and not (is_over and each.started is None)
        for each in known
    )


def _is_silent(connection: Connection, study_id: int, expired: dt.datetime) -> bool:
    """Say whether no trial of the study has been touched for a lease."""
    query = (
        select(func.max(_Heartbeat.heartbeat))
        .join(_Trial, _Trial.trial_id == _Heartbeat.trial_id)
        .where(_Trial.study_id == study_id)
    )
    last = connection.scalar(query)
    return last is None or last < expired


def _tell_pruned(
    connection: Connection, token: str, waiting: Sequence[KnownTrial], direction: Direction
) -> None:
    """End trials that never went on, at the time at which they were paused."""
    for each in waiting:
        assert each.paused is not None
        rows = TrialRows(connection, each.trial_id)
        end: Any = each.paused.get("end", {})
        rows.annotate({TOKEN: token, END: end})  # with the token it is known for one of ours
        rows.forget(PAUSED)
        if each.values:
            rows.set_value(direction.best(each.values))
        last_s = dt.timedelta(seconds=float(each.paused.get("last_s", 0)))
        rows.set_state(TrialState.PRUNED, ended=each.started and each.started + last_s)
