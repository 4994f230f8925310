"""Reserves trials of a shared study, so that it gets exactly as many as were asked for.

The trial's row is the reservation, its heartbeat row the lease, the user attribute "lease" the
fencing token: no table of our own. One transaction, opened by the lock that Optuna itself takes
(the study's row FOR UPDATE), either takes over a trial whose owner is dead or inserts a new one
if fewer than N are not failed, and writes heartbeat and token with it. Nothing of Optuna's study
API may be called inside: on another connection it would wait for this one for ever.

This module alone uses private names of Optuna (5.0: `_get_prepared_new_trial`,
`_set_trial_attr_without_commit`), which is why that version is pinned.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
import uuid
from dataclasses import dataclass
from typing import Any

from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Engine, create_engine, delete, event, func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

TOKEN = "lease"
ATTEMPT = "attempt"

_RENEW = text(
    "UPDATE trial_heartbeats SET heartbeat = CURRENT_TIMESTAMP WHERE trial_id = :trial_id "
    "AND EXISTS (SELECT 1 FROM trial_user_attributes a JOIN trials t ON t.trial_id = a.trial_id "
    "WHERE a.trial_id = :trial_id AND a.key = 'lease' AND a.value_json = :token "
    "AND t.state = 'RUNNING')"
)


@dataclass(frozen=True)
class Lease:
    """The right to run one trial, as long as it is renewed.

    Attributes:
        trial_id: the database's id of the trial.
        token: proves that the lease is still ours.
        attempt: 1 for a new trial, one more at each take-over.
    """

    trial_id: int
    token: str
    attempt: int


class LeaseOffice:
    """Claims, renews and gives back leases on the trials of one study."""

    def __init__(self, storage: RDBStorage, study_id: int, *, lease_s: float) -> None:
        self.lease_s = lease_s
        self._storage = storage
        self._study_id = study_id
        self._engine = _locking_engine(storage)
        self._sessions = sessionmaker(self._engine)

    def claim(self, num_trials: int) -> Lease | None:
        """Take over a trial without an owner, else start a new one; None if N are taken."""
        token = uuid.uuid4().hex
        with self._sessions.begin() as session:
            models.StudyModel.find_or_raise_by_id(self._study_id, session, for_update=True)
            trial: Any = self._find_abandoned(session)
            attempt = 1
            if trial is not None:
                attempt = 1 + self._read_attempt(session, trial.trial_id)
                trial.state = TrialState.RUNNING
                # Else the time between the attempts would count as the trial's.
                trial.datetime_start = dt.datetime.now()  # naive, as Optuna writes it
                # `report` skips steps that it has already, so an attempt starts a new curve.
                session.execute(
                    delete(models.TrialIntermediateValueModel).where(
                        models.TrialIntermediateValueModel.trial_id == trial.trial_id
                    )
                )
            elif self._count_not_failed(session) < num_trials:
                trial = self._storage._get_prepared_new_trial(self._study_id, None, session)
            else:
                return None
            trial_id: int = trial.trial_id
            heartbeat = models.TrialHeartbeatModel.where_trial_id(trial_id, session)
            if heartbeat is None:
                session.add(models.TrialHeartbeatModel(trial_id=trial_id))
            else:
                heartbeat.heartbeat = session.scalar(select(func.now()))
            self._set_attribute(session, trial_id, TOKEN, token)
            self._set_attribute(session, trial_id, ATTEMPT, attempt)
        return Lease(trial_id, token, attempt)

    def renew(self, lease: Lease) -> bool:
        """Renew a lease; False if somebody else has the trial or it is finished."""
        with self._storage.engine.begin() as connection:
            result = connection.execute(
                _RENEW, {"trial_id": lease.trial_id, "token": json.dumps(lease.token)}
            )
            return result.rowcount == 1

    def give_back(self, lease: Lease) -> None:
        """Put a trial back for anyone to take over, if it is still ours."""
        if self.renew(lease):
            self._storage.set_trial_state_values(lease.trial_id, TrialState.WAITING)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _find_abandoned(self, session: Session) -> models.TrialModel | None:
        trial, heartbeat = models.TrialModel, models.TrialHeartbeatModel
        now = session.scalar(select(func.now()))
        assert now is not None
        expired = now.replace(tzinfo=None) - dt.timedelta(seconds=self.lease_s)
        is_dead = (heartbeat.heartbeat.is_(None)) | (heartbeat.heartbeat < expired)
        found: models.TrialModel | None = session.scalars(
            select(trial)
            .outerjoin(heartbeat, heartbeat.trial_id == trial.trial_id)
            .where(
                trial.study_id == self._study_id,
                (trial.state == TrialState.WAITING)
                | ((trial.state == TrialState.RUNNING) & is_dead),
            )
            .order_by(trial.trial_id)
            .limit(1)
        ).first()
        return found

    def _count_not_failed(self, session: Session) -> int:
        trial = models.TrialModel
        count = session.scalar(
            select(func.count())
            .select_from(trial)
            .where(trial.study_id == self._study_id, trial.state != TrialState.FAIL)
        )
        return count or 0

    def _read_attempt(self, session: Session, trial_id: int) -> int:
        attribute = models.TrialUserAttributeModel
        value = session.scalar(
            select(attribute.value_json).where(
                attribute.trial_id == trial_id, attribute.key == ATTEMPT
            )
        )
        return int(json.loads(value)) if value else 0

    def _set_attribute(self, session: Session, trial_id: int, key: str, value: Any) -> None:
        self._storage._set_trial_attr_without_commit(
            session, models.TrialUserAttributeModel, trial_id, key, value
        )


class Renewer:
    """Renews the leases of one driver in the background, and knows which were lost."""

    def __init__(self, office: LeaseOffice) -> None:
        self._office = office
        self._held: dict[str, Lease] = {}
        self._lost: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-renewer", daemon=True)
        self._thread.start()

    def hold(self, lease: Lease) -> None:
        """Renew this lease from now on."""
        with self._lock:
            self._held[lease.token] = lease

    def release(self, lease: Lease) -> None:
        """Renew it no more."""
        with self._lock:
            self._held.pop(lease.token, None)
            self._lost.discard(lease.token)

    def is_lost(self, lease: Lease) -> bool:
        """Say whether somebody else has taken the trial over."""
        return lease.token in self._lost

    def close(self) -> None:
        """Stop renewing."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._office.lease_s / 4):
            with self._lock:
                held = list(self._held.values())
            for lease in held:
                try:
                    if not self._office.renew(lease):
                        self._lost.add(lease.token)
                except SQLAlchemyError:
                    continue  # unreachable for the moment: the next round tries again


def _locking_engine(storage: RDBStorage) -> Engine:
    """Return an engine whose transactions lock from their first statement on."""
    engine = storage.engine
    if engine.name != "sqlite":
        return create_engine(engine.url, pool_pre_ping=True)
    # SQLite drops FOR UPDATE silently and a SELECT opens no transaction there.
    locking = create_engine(engine.url)

    @event.listens_for(locking, "connect")
    def _no_implicit_begin(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA busy_timeout = 60000")

    @event.listens_for(locking, "begin")
    def _begin_immediate(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return locking
