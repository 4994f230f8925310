"""Leases a task that one driver does for the whole study, such as the final test.

The lease is an attribute of the study, written under the study's lock and by the database's clock,
as those on trials are (`hpo.store.lease`); who holds it renews it, and a dead holder's expires.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import delete, func, insert, select

from hpo.owner import is_dead
from hpo.store.database import DATABASE_ERRORS, locking_engine

ROUNDS_PER_LEASE = 4

_Attribute = models.StudyUserAttributeModel


class TaskLease:
    """One driver's lease on one task of a study; its owner is `HOST/SESSION`."""

    def __init__(
        self, storage: RDBStorage, study_id: int, task: str, *, owner: str, lease_s: float
    ) -> None:
        self._engine = locking_engine(storage)
        self._owns_engine = self._engine is not storage.engine
        self._study_id, self._task = study_id, task
        self._owner, self._lease_s = owner, lease_s

    def take(self) -> str | None:
        """Take the lease, or renew it; None if it is ours then, else its owner.

        Raises:
            KeyError: the study was deleted.
        """
        columns = {"study_id": self._study_id, "key": self._task}
        with self._engine.begin() as connection:
            study = models.StudyModel
            now: Any = connection.scalar(
                select(func.now())
                .select_from(study)
                .where(study.study_id == self._study_id)
                .with_for_update()
            )
            if now is None:
                raise KeyError(models.NOT_FOUND_MSG)
            now = now.replace(tzinfo=None)
            held = connection.scalar(select(_Attribute.value_json).filter_by(**columns))
            if held is not None:
                entry = json.loads(held)
                owner = str(entry["owner"])
                silence = now - dt.datetime.fromisoformat(entry["renewed"])
                is_held = silence.total_seconds() < self._lease_s and not _is_known_dead(owner)
                if owner != self._owner and is_held:
                    return owner
                connection.execute(delete(_Attribute).filter_by(**columns))
            value = json.dumps({"owner": self._owner, "renewed": now.isoformat()})
            connection.execute(insert(_Attribute).values(**columns, value_json=value))
        return None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Renew it, once taken, until the block ends; then nobody has it."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(self._lease_s / ROUNDS_PER_LEASE):
                # The next round tries again; a deleted study shows in the work itself.
                with contextlib.suppress(KeyError, *DATABASE_ERRORS):
                    self.take()

        thread = threading.Thread(target=renew, name=self._task, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with contextlib.suppress(*DATABASE_ERRORS):  # then it expires
                self._leave()

    def close(self) -> None:
        """Close the connections."""
        if self._owns_engine:
            self._engine.dispose()

    def _leave(self) -> None:
        if self.take() is None:
            with self._engine.begin() as connection:
                connection.execute(
                    delete(_Attribute).filter_by(study_id=self._study_id, key=self._task)
                )


def _is_known_dead(owner: str) -> bool:
    """Say whether a driver of this host is gone, so that nobody waits for its lease to end."""
    host, _, session = owner.partition("/")
    return host == socket.gethostname() and is_dead(session)
