"""Asks the study's database for counts and bests, not for whole trials.

Optuna's own `study.trials` reads every value of every trial: half a minute at 10,000 trials of 50
epochs. This module reads Optuna's tables (5.0) without importing Optuna, whose loading costs more
than the queries, and writes nothing; `hpo.store` uses the same tables through Optuna's models.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    DateTime,
    Engine,
    Enum,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    func,
    inspect,
    select,
)
from sqlalchemy.sql.elements import ColumnElement

from hpo.keys import BEGAN, BUDGET, DRIVER, PAUSED, TOKEN
from hpo.records import PresenceRecord, RunRecord, read_began
from hpo.store import clock
from hpo.store.budget import Budget
from trainer.direction import Direction

STATES = ("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING")
_METADATA = MetaData()
_STUDIES = Table(
    "studies", _METADATA, Column("study_id", Integer), Column("study_name", String)
)  # fmt: skip
_STUDY_ATTRIBUTES = Table(
    "study_user_attributes", _METADATA,
    Column("study_id", Integer), Column("key", String), Column("value_json", String),
)  # fmt: skip
_DIRECTIONS = Table(
    "study_directions", _METADATA,
    Column("study_id", Integer), Column("objective", Integer),
    Column("direction", Enum("NOT_SET", "MINIMIZE", "MAXIMIZE", name="studydirection")),
)  # fmt: skip
_SYSTEM_ATTRIBUTES = Table(
    "study_system_attributes", _METADATA,
    Column("study_id", Integer), Column("key", String), Column("value_json", String),
)  # fmt: skip
_TRIALS = Table(
    "trials", _METADATA,
    Column("trial_id", Integer), Column("number", Integer), Column("study_id", Integer),
    Column("state", Enum(*STATES, name="trialstate")), Column("datetime_start", DateTime),
    Column("datetime_complete", DateTime),
)  # fmt: skip
_ATTRIBUTES = Table(
    "trial_user_attributes", _METADATA,
    Column("trial_id", Integer), Column("key", String), Column("value_json", String),
)  # fmt: skip
_VALUES = Table(
    "trial_intermediate_values", _METADATA,
    Column("trial_id", Integer), Column("step", Integer), Column("intermediate_value", Float),
)  # fmt: skip
_PARAMS = Table(
    "trial_params", _METADATA,
    Column("param_id", Integer), Column("trial_id", Integer), Column("param_name", String),
    Column("param_value", Float), Column("distribution_json", String),
)  # fmt: skip
_TOLD = Table(
    "trial_values", _METADATA,
    Column("trial_id", Integer), Column("objective", Integer), Column("value", Float),
)  # fmt: skip
_HEARTBEATS = Table(
    "trial_heartbeats", _METADATA, Column("trial_id", Integer), Column("heartbeat", DateTime)
)  # fmt: skip

NUM_LEASES = 3  # of its own within which a driver is heard of, or it is dead
DEFAULT_LEASE_S = 30.0  # of a trial that has recorded none yet
COUNTED = ("COMPLETE", "PRUNED")
_STATE = _TRIALS.c.state
_BEGAN = _ATTRIBUTES.alias()
_OURS = select(_ATTRIBUTES.c.trial_id).where(_ATTRIBUTES.c.key == TOKEN)


@dataclass(frozen=True)
class Best:
    """The best score of a study's finished trials, and where it was reached."""

    trial_id: int
    number: int
    score: float
    epoch: int


class Note(NamedTuple):
    """An attribute of a trial; a tuple, for there is one of each trial."""

    trial_id: int
    number: int
    state: str
    value: dict[str, Any]


class Foreign(NamedTuple):
    """A finished trial that a plain Optuna script has run, with the value that it told."""

    number: int
    state: str
    value: float | None


@dataclass(frozen=True)
class Running:
    """A trial that somebody has claimed."""

    number: int
    since: dt.datetime | None
    silent_s: float | None  # since the last sign of life of its driver
    epoch: int
    best: float | None
    provenance: RunRecord

    @property
    def is_alive(self) -> bool:
        """Whether its driver has been heard of lately."""
        lease_s = float(self.provenance.get("lease_s", DEFAULT_LEASE_S))
        return self.silent_s is not None and self.silent_s < NUM_LEASES * lease_s


class Pace(NamedTuple):
    """How many trials have finished in a time, up to the last one."""

    num_finished: int
    begin: dt.datetime
    end: dt.datetime


class StudyReader:
    """Reads one study's sums; each method is one query, or two."""

    def __init__(self, engine: Engine, study_id: int) -> None:
        self._engine = engine
        self._study_id = study_id

    def attribute(self, key: str) -> Any:
        """Return an attribute of the study, None where it has none of that name."""
        columns = _STUDY_ATTRIBUTES.c
        query = select(columns.value_json).where(
            columns.study_id == self._study_id, columns.key == key
        )
        found = self._rows(query)
        return json.loads(found[0][0]) if found else None

    @cached_property
    def direction(self) -> Direction:
        """Which of two scores is the better one, in the study's first objective."""
        query = select(_DIRECTIONS.c.direction).where(
            _DIRECTIONS.c.study_id == self._study_id, _DIRECTIONS.c.objective == 0
        )
        is_minimized = [(str(text),) for (text,) in self._rows(query)] == [("MINIMIZE",)]
        return Direction.MINIMIZE if is_minimized else Direction.MAXIMIZE

    def _best_first(self, value: ColumnElement[float]) -> ColumnElement[float]:
        return value.asc() if self.direction.is_lower_better else value.desc()

    def states(self) -> dict[str, int]:
        """Return how many trials are in each state; those that wait at a rung are PAUSED."""
        query = (
            select(_STATE, func.count())
            .where(_TRIALS.c.study_id == self._study_id)
            .group_by(_TRIALS.c.state)
        )
        states = {str(state): int(number) for state, number in self._rows(query)}
        if waiting := states.get("WAITING"):
            num_paused = len(self._rows(self._paused()))
            states |= {"WAITING": waiting - num_paused, "PAUSED": num_paused}
        return {state: number for state, number in states.items() if number}

    def _paused(self) -> Any:
        return (
            select(_TRIALS.c.number)
            .join(_ATTRIBUTES, _ATTRIBUTES.c.trial_id == _TRIALS.c.trial_id)
            .where(
                _TRIALS.c.study_id == self._study_id,
                _STATE.in_(["WAITING"]),
                _ATTRIBUTES.c.key == PAUSED,
            )
        )

    def numbers(self, state: str) -> set[int]:
        """Return the numbers of the trials in a state."""
        query = select(_TRIALS.c.number).where(
            _TRIALS.c.study_id == self._study_id, _STATE.in_([state])
        )
        return {int(number) for (number,) in self._rows(query)}

    def best(self, states: Sequence[str] = COUNTED) -> Best | None:
        """Return our best trial in those states: a trial's score is the best over its epochs."""
        value = _VALUES.c.intermediate_value
        query = (
            select(_TRIALS.c.trial_id, _TRIALS.c.number, value, _VALUES.c.step)
            .join(_VALUES, _VALUES.c.trial_id == _TRIALS.c.trial_id)
            .where(self._is_counted(states), _TRIALS.c.trial_id.in_(_OURS), value.is_not(None))
            .order_by(self._best_first(value), _TRIALS.c.number, _VALUES.c.step)  # `Direction`
            .limit(1)
        )
        found = self._rows(query)
        return Best(*found[0]) if found else None

    def foreign(self) -> list[Foreign]:
        """Return the finished trials that are not ours."""
        told = (_TOLD.c.trial_id == _TRIALS.c.trial_id) & (_TOLD.c.objective == 0)
        query = (
            select(_TRIALS.c.number, _STATE, _TOLD.c.value)
            .outerjoin(_TOLD, told)
            .where(self._is_counted(), _TRIALS.c.trial_id.not_in(_OURS))
        )
        return [Foreign(*row) for row in self._rows(query)]

    def params(self, trial_id: int) -> dict[str, Any]:
        """Return a trial's parameters in the order in which they were sampled."""
        columns = _PARAMS.c
        query = (
            select(columns.param_name, columns.param_value, columns.distribution_json)
            .where(columns.trial_id == trial_id)
            .order_by(columns.param_id)
        )
        return {name: _decode(value, text) for name, value, text in self._rows(query)}

    def notes(self, key: str) -> list[Note]:
        """Return an attribute of all trials that have it."""
        query = (
            select(_TRIALS.c.trial_id, _TRIALS.c.number, _STATE, _ATTRIBUTES.c.value_json)
            .join(_ATTRIBUTES, _ATTRIBUTES.c.trial_id == _TRIALS.c.trial_id)
            .where(_TRIALS.c.study_id == self._study_id, _ATTRIBUTES.c.key == key)
        )
        return [
            Note(trial_id, number, state, json.loads(text))
            for trial_id, number, state, text in self._rows(query)
        ]

    def pace(self, number: int) -> Pace | None:
        """Return how fast trials finish, by the last ones that did; None where none has.

        The times are UTC.
        """
        end = _TRIALS.c.datetime_complete
        query = (
            select(_TRIALS.c.datetime_start, end, _BEGAN.c.value_json)
            .outerjoin(_BEGAN, _has_begun())
            .where(self._is_counted(), _TRIALS.c.datetime_start.is_not(None), end.is_not(None))
            .order_by(end.desc(), _TRIALS.c.number.desc())
            .limit(number)
        )
        last = self._rows(query)
        if not last:
            return None
        begin = min(_first(start, text) for start, _, text in last)
        # Others, too: a trial that was paused may have begun long before the last ones.
        ((num_finished,),) = self._rows(
            select(func.count()).where(self._is_counted(), end >= begin)
        )
        return Pace(int(num_finished), begin, last[0][1])

    def span(self) -> tuple[dt.datetime, dt.datetime] | None:
        """Return the first trial's start and the last one's end (UTC), if there are both."""
        query = (
            select(
                func.min(_TRIALS.c.datetime_start),
                func.max(_TRIALS.c.datetime_complete),
                func.min(_BEGAN.c.value_json),
            )
            .outerjoin(_BEGAN, _has_begun())
            .where(_TRIALS.c.study_id == self._study_id)
        )
        ((start, end, text),) = self._rows(query)
        if start is None or end is None:
            return None
        return _first(start, text), end

    def running(self, provenance: str) -> list[Running]:
        """Return the trials that are claimed; `provenance` is the attribute that says where."""
        now = self.now()
        query = (
            select(
                _TRIALS.c.trial_id,
                _TRIALS.c.number,
                _TRIALS.c.datetime_start,
                _HEARTBEATS.c.heartbeat,
                _ATTRIBUTES.c.value_json,
            )
            .outerjoin(_HEARTBEATS, _HEARTBEATS.c.trial_id == _TRIALS.c.trial_id)
            .outerjoin(
                _ATTRIBUTES,
                (_ATTRIBUTES.c.trial_id == _TRIALS.c.trial_id) & (_ATTRIBUTES.c.key == provenance),
            )
            .where(_TRIALS.c.study_id == self._study_id, _STATE == "RUNNING")
            .order_by(_TRIALS.c.number)
        )
        rows = self._rows(query)
        values = _VALUES.c
        best_of = func.min if self.direction.is_lower_better else func.max
        curves = {
            trial_id: (epoch, best)
            for trial_id, epoch, best in self._rows(
                select(values.trial_id, func.max(values.step), best_of(values.intermediate_value))
                .where(values.trial_id.in_([row[0] for row in rows]))
                .group_by(values.trial_id)
            )
        }
        return [
            Running(
                number,
                start,
                (now - heartbeat).total_seconds() if heartbeat else None,
                *curves.get(trial_id, (0, None)),
                json.loads(text) if text else {},
            )
            for trial_id, number, start, heartbeat, text in rows
        ]

    def has_driver(self, host: str | None = None) -> bool:
        """Say whether a driver is at work, on that host or any, be it between two trials."""
        columns = _SYSTEM_ATTRIBUTES.c
        owners = "" if host is None else f"{host}/"
        query = select(columns.value_json).where(
            columns.study_id == self._study_id,
            columns.key.startswith(DRIVER.format(owners), autoescape=True),
        )
        records: list[PresenceRecord] = [json.loads(text) for (text,) in self._rows(query)]
        if not records:
            return False
        with self._engine.connect() as connection:
            now = clock.database_seconds(connection)
        return any(now - each["renewed"] < NUM_LEASES * each["lease_s"] for each in records)

    def now(self) -> dt.datetime:
        """Return the database's clock, as it writes heartbeats."""
        (value,) = self._rows(select(func.now()))[0]
        assert isinstance(value, dt.datetime)
        return value.replace(tzinfo=None)

    def budget(self) -> Budget | None:
        """Return how much of the study's time is over, None where that has no limit."""
        record = self.attribute(BUDGET)
        if record is None:
            return None
        with self._engine.connect() as connection:
            return Budget.of(record, clock.database_seconds(connection))

    def _is_counted(self, states: Sequence[str] = COUNTED) -> ColumnElement[bool]:
        return (_TRIALS.c.study_id == self._study_id) & _STATE.in_(states)

    def _rows(self, query: Any) -> Sequence[Any]:
        with self._engine.connect() as connection:
            return connection.execute(query).all()


def study_names(engine: Engine) -> dict[str, int]:
    """Return name -> id of the studies in a database, which may be new and empty."""
    if not inspect(engine).has_table(_STUDIES.name):
        return {}
    query = select(_STUDIES.c.study_name, _STUDIES.c.study_id).order_by(_STUDIES.c.study_id)
    with engine.connect() as connection:
        return {name: int(number) for name, number in connection.execute(query)}


def _has_begun() -> ColumnElement[bool]:
    return (_BEGAN.c.trial_id == _TRIALS.c.trial_id) & (_BEGAN.c.key == BEGAN)


def _first(start: dt.datetime, text: str | None) -> dt.datetime:
    """Return the first of a trial's last start and its attribute BEGAN, which it may lack."""
    began = read_began(json.loads(text)) if text else None
    return start if began is None else min(start, began)


def _decode(value: float, distribution: str) -> Any:
    """Return a parameter's value from the number that Optuna stores."""
    entry = json.loads(distribution)
    if entry["name"] == "CategoricalDistribution":
        return entry["attributes"]["choices"][int(value)]
    return int(value) if entry["name"] == "IntDistribution" else value
