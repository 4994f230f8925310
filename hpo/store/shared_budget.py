"""Reads and writes the budget of a study, on which its drivers agree."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from optuna.storages._rdb import models
from sqlalchemy import Connection, Engine, insert, select, update

from hpo.keys import BUDGET
from hpo.store import clock
from hpo.store.agreement import read_agreed
from hpo.store.budget import Budget
from hpo.store.database import DATABASE_ERRORS

_Study, _Attribute = models.StudyModel, models.StudyUserAttributeModel


class SharedBudget:
    """The budget of one study, as a driver looks at it and asks for more; None without one."""

    def __init__(self, engine: Engine, study_id: int) -> None:
        """Look at a study through an engine whose transactions lock (`locking_engine`)."""
        self._engine = engine
        self._study_id = study_id
        self.now: Budget | None = None  # as it was when it was last read

    def ask(self, hours: float | None) -> Budget | None:
        """Ask for so many hours since the study's first start; return what holds."""
        with self._engine.begin() as connection:
            lock = select(_Study.study_id).where(_Study.study_id == self._study_id)
            connection.execute(lock.with_for_update())  # that of the claims
            record = read_agreed(connection, self._study_id).get(BUDGET)
            if hours is not None and (record is None or record["hours"] < hours):
                began = record["began"] if record else clock.database_seconds(connection)
                wanted = {"hours": hours, "began": began}
                _write(connection, self._study_id, wanted, is_new=record is None)
        return self.read()

    def read(self) -> Budget | None:
        """Return what the drivers have agreed on by now."""
        with self._engine.connect() as connection:
            return self.look(connection, read_agreed(connection, self._study_id))

    def look(self, connection: Connection, agreed: Mapping[str, Any]) -> Budget | None:
        """Return the budget of a study with those attributes."""
        record = agreed.get(BUDGET)
        self.now = record and Budget.of(record, clock.database_seconds(connection))
        return self.now

    def is_over(self) -> bool:
        """Say whether the time is over; asked anew, for a driver may have asked for more.

        A database that does not answer has no more to give.
        """
        known = self.now
        if known is None or known.left_s > 0:
            return False
        with contextlib.suppress(*DATABASE_ERRORS):
            known = self.read()
        return known is not None and known.left_s <= 0


def settle(
    connection: Connection, study_id: int, agreed: Mapping[str, Any], *, is_done: bool
) -> None:
    """Note whether the search has come to its end by its budget, with the study's lock held."""
    record = agreed.get(BUDGET)
    if record is not None and bool(record.get("is_done")) != is_done:
        _write(connection, study_id, {**record, "is_done": is_done}, is_new=False)


def _write(
    connection: Connection, study_id: int, record: Mapping[str, Any], *, is_new: bool
) -> None:
    text = json.dumps(record)
    if is_new:
        row = insert(_Attribute).values(study_id=study_id, key=BUDGET, value_json=text)
        connection.execute(row)
        return
    connection.execute(
        update(_Attribute)
        .where(_Attribute.study_id == study_id, _Attribute.key == BUDGET)
        .values(value_json=text)
    )
