"""Says that a driver works for a study, also while it has no trial.

Between two trials, before the first and while a winner is copied no lease tells of it. The sign of
life is a system attribute of the study, by the database's clock, for each driver one of its own;
one that ends in order deletes it, and a dead one's grows old.
"""

from __future__ import annotations

import contextlib
import json

from optuna.storages._rdb import models
from sqlalchemy import ColumnElement, Connection, Engine, delete, insert, select, update

from hpo.keys import DRIVER
from hpo.records import PresenceRecord
from hpo.store import clock
from hpo.store.database import DATABASE_ERRORS

NUM_LEASES_KEPT = 100  # then a dead driver's is deleted by the next that comes

_Attribute = models.StudySystemAttributeModel


class Presence:
    """One driver's sign of life in a study; its owner is `HOST/SESSION`."""

    def __init__(self, engine: Engine, study_id: int, *, owner: str, lease_s: float) -> None:
        """Write through an engine whose transactions lock (`locking_engine`)."""
        self._engine, self._study_id, self._lease_s = engine, study_id, lease_s
        self._key = DRIVER.format(owner)

    def enter(self) -> None:
        """Give the first sign of life, and delete those of drivers that died long ago."""
        with self._engine.begin() as connection:
            self._put(connection, now := clock.database_seconds(connection))
            drivers = _Attribute.key.startswith(DRIVER.format(""), autoescape=True)
            rows = connection.execute(
                select(_Attribute.key, _Attribute.value_json).where(self._of_study, drivers)
            )
            dead = [key for key, text in rows if _is_long_dead(json.loads(text), now)]
            if dead:
                connection.execute(
                    delete(_Attribute).where(self._of_study, _Attribute.key.in_(dead))
                )

    def renew(self) -> None:
        """Give a sign of life."""
        with self._engine.begin() as connection:
            self._put(connection, clock.database_seconds(connection))

    def leave(self) -> None:
        """Take it back: this driver has ended in order."""
        with contextlib.suppress(*DATABASE_ERRORS), self._engine.begin() as connection:
            connection.execute(delete(_Attribute).where(self._is_ours))

    @property
    def _of_study(self) -> ColumnElement[bool]:
        return _Attribute.study_id == self._study_id

    @property
    def _is_ours(self) -> ColumnElement[bool]:
        return self._of_study & (_Attribute.key == self._key)

    def _put(self, connection: Connection, now: float) -> None:
        record: PresenceRecord = {"renewed": round(now, 3), "lease_s": self._lease_s}
        text = json.dumps(record)
        known = connection.execute(update(_Attribute).where(self._is_ours).values(value_json=text))
        if not known.rowcount:
            columns = {"study_id": self._study_id, "key": self._key, "value_json": text}
            connection.execute(insert(_Attribute).values(columns))


def _is_long_dead(record: PresenceRecord, now: float) -> bool:
    """Say whether a driver has been silent for so long that nobody asks for it any more."""
    return now - record["renewed"] > NUM_LEASES_KEPT * record["lease_s"]
