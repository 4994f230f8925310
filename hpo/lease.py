"""Reserves trials of a shared study, so that it gets exactly as many as were asked for.

The trial's row is the reservation, its heartbeat row the lease, the user attribute "lease" the
fencing token: no table of our own. One transaction, opened by the lock that Optuna itself takes
(the study's row FOR UPDATE), either takes over a trial whose owner is dead or inserts a new one
if fewer than N are not failed, and writes heartbeat and token with it. Nothing of Optuna's study
API may be called inside: on another connection it would wait for this one for ever.

What an owner writes (reports, the end) goes through one transaction that begins by renewing the
lease: it waits for a take-over that is under way, and then finds that the token is not its own.

This module and `agreement` alone use private names of Optuna (5.0: `_get_prepared_new_trial`,
`_set_trial_attr_without_commit`, `_set_trial_value_without_commit`,
`_set_trial_intermediate_value_without_commit`, `Study._thread_local`), which is why that version
is pinned.
"""

from __future__ import annotations

import datetime as dt
import json
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from hpo.agreement import agree_on_total, check_identity
from hpo.database import locking_engine

TOKEN = "lease"
ATTEMPT = "attempt"
CRASHES = "crashes"
DEATHS = "deaths"  # [drivers that died in a row without an epoch more, last epoch by then]

_RENEW = text(
    "UPDATE trial_heartbeats SET heartbeat = CURRENT_TIMESTAMP WHERE trial_id = :trial_id "
    "AND EXISTS (SELECT 1 FROM trial_user_attributes a JOIN trials t ON t.trial_id = a.trial_id "
    "WHERE a.trial_id = :trial_id AND a.key = 'lease' AND a.value_json = :token "
    "AND t.state = 'RUNNING')"
)
_Trial, _Heartbeat = models.TrialModel, models.TrialHeartbeatModel
_Attribute, _Value = models.TrialUserAttributeModel, models.TrialIntermediateValueModel


@dataclass(frozen=True)
class Lease:
    """The right to run one trial, as long as it is renewed.

    Attributes:
        trial_id: the database's id of the trial.
        token: proves that the lease is still ours.
        attempt: 1 for a new trial, one more at each take-over and each new start.
        num_crashes: how many attempts ended in a crash of the worker.
        num_deaths: how many drivers fell silent with it, since it last got an epoch further.
    """

    trial_id: int
    token: str
    attempt: int
    num_crashes: int = 0
    num_deaths: int = 0


class LeaseOffice:
    """Claims, renews and gives back leases on the trials of one study."""

    def __init__(
        self,
        storage: RDBStorage,
        study_id: int,
        *,
        lease_s: float,
        owner: str = "",
        identity: Mapping[str, str] | None = None,
    ) -> None:
        """Make an office; `owner` begins its tokens, to tell who holds what.

        With an `identity` it claims trials only while the study is that very search.
        """
        self.lease_s = lease_s
        self._owner = owner
        self._storage = storage
        self._study_id = study_id
        self._identity = identity
        self._engine = locking_engine(storage)
        self._sessions = sessionmaker(self._engine)

    def claim(self, num_trials: int, *, may_reap: bool = True) -> Lease | None:
        """Take over a trial without an owner, else start a new one; None if N are taken.

        N is the largest that any driver of the study has asked for. Without `may_reap` only
        trials are taken over that were given back.

        Raises:
            UsageError: the study has become another search than ours.
        """
        token = f"{self._owner}/{uuid.uuid4().hex}"
        began = time.monotonic()
        with self._sessions.begin() as session:
            models.StudyModel.find_or_raise_by_id(self._study_id, session, for_update=True)
            # A database that hung until now has let everybody's lease expire.
            is_prompt = time.monotonic() - began < self.lease_s / 4
            if self._identity is not None:
                check_identity(session, self._study_id, self._identity)
            trial_id, has_died = self._take_over(session, may_reap=may_reap and is_prompt)
            attempt, num_crashes, num_deaths = 1, 0, 0
            if trial_id is not None:
                known = self._read_attributes(session, trial_id, (ATTEMPT, CRASHES, DEATHS))
                attempt, num_crashes = 1 + known.get(ATTEMPT, 0), known.get(CRASHES, 0)
                if has_died:
                    num_deaths = self._count_death(session, trial_id, known.get(DEATHS, (0, 0)))
            elif self._count_not_failed(session) < agree_on_total(
                session, self._study_id, num_trials
            ):
                new: Any = self._storage._get_prepared_new_trial(self._study_id, None, session)
                trial_id = int(new.trial_id)
                session.add(_Heartbeat(trial_id=trial_id))
            else:
                return None
            self._set_attribute(session, trial_id, TOKEN, token)
            self._set_attribute(session, trial_id, ATTEMPT, attempt)
        return Lease(trial_id, token, attempt, num_crashes, num_deaths)

    def num_trials(self, num_trials: int) -> int:
        """Return the total that the drivers of this study have agreed on, at least this one's."""
        with self._sessions.begin() as session:
            return agree_on_total(session, self._study_id, num_trials)

    def renew(self, lease: Lease) -> bool:
        """Renew a lease; False if somebody else has the trial or it is finished."""
        return self._as_owner(lease, lambda session: None)

    def ping(self) -> None:
        """Ask the database for a sign of life."""
        with self._engine.connect() as connection:
            connection.execute(select(1))

    def report(self, lease: Lease, curve: Mapping[int, float]) -> bool:
        """Store values by step, if the trial is still ours; say whether it is."""

        def write(session: Session) -> None:
            for step, value in curve.items():
                self._storage._set_trial_intermediate_value_without_commit(
                    session, lease.trial_id, step, value
                )

        return self._as_owner(lease, write)

    def annotate(self, lease: Lease, attributes: Mapping[str, Any]) -> bool:
        """Store attributes of a trial, if it is still ours; say whether it is."""
        return self._as_owner(lease, lambda session: self._annotate(session, lease, attributes))

    def begin(self, lease: Lease, *, keep: Collection[int], attributes: Mapping[str, Any]) -> bool:
        """Record that a worker starts, which goes on after the steps in `keep`."""

        def write(session: Session) -> None:
            self._drop_steps(session, lease, keep)
            self._annotate(session, lease, attributes)

        return self._as_owner(lease, write)

    def keep_steps(self, lease: Lease, steps: Collection[int]) -> bool:
        """Delete what an earlier attempt reported beyond these steps, if the trial is ours."""
        return self._as_owner(lease, lambda session: self._drop_steps(session, lease, steps))

    def start_again(self, lease: Lease, *, crashed: bool = True) -> Lease | None:
        """Count an attempt that failed, and return the lease of the next; None if it is lost."""
        next_lease = replace(
            lease, attempt=lease.attempt + 1, num_crashes=lease.num_crashes + crashed
        )

        def write(session: Session) -> None:
            self._set_attribute(session, lease.trial_id, ATTEMPT, next_lease.attempt)
            self._set_attribute(session, lease.trial_id, CRASHES, next_lease.num_crashes)

        return next_lease if self._as_owner(lease, write) else None

    def finish(
        self,
        lease: Lease,
        state: TrialState,
        value: float | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> bool:
        """End a trial as `Study.tell` does, with its last attributes, if it is still ours."""

        def write(session: Session) -> None:
            self._annotate(session, lease, attributes or {})
            trial = _Trial.find_or_raise_by_id(lease.trial_id, session, for_update=True)
            if value is not None:
                self._storage._set_trial_value_without_commit(session, trial, 0, value)
            trial.state = state
            trial.datetime_complete = dt.datetime.now()  # naive, as Optuna writes it

        return self._as_owner(lease, write) or self._is_finished_by(lease)

    def give_back(self, lease: Lease) -> None:
        """Put a trial back for anyone to take over, if it is still ours."""

        def write(session: Session) -> None:
            _Trial.find_or_raise_by_id(lease.trial_id, session).state = TrialState.WAITING

        self._as_owner(lease, write)

    def close(self) -> None:
        """Close the connections."""
        if self._engine is not self._storage.engine:
            self._engine.dispose()

    def _as_owner(self, lease: Lease, write: Callable[[Session], None]) -> bool:
        with self._sessions.begin() as session:
            renewed: Any = session.execute(
                _RENEW, {"trial_id": lease.trial_id, "token": json.dumps(lease.token)}
            )
            if renewed.rowcount != 1:
                return False
            write(session)
        return True

    def _is_finished_by(self, lease: Lease) -> bool:
        """Say whether we ended it ourselves, and the connection broke before we heard of it."""
        with self._sessions.begin() as session:
            state = session.scalar(select(_Trial.state).where(_Trial.trial_id == lease.trial_id))
            known = self._read_attributes(session, lease.trial_id, (TOKEN,))
            return state is not None and state.is_finished() and known.get(TOKEN) == lease.token

    def _count_death(self, session: Session, trial_id: int, known: Sequence[int]) -> int:
        epoch = session.scalar(select(func.max(_Value.step)).where(_Value.trial_id == trial_id))
        number, last_epoch = known
        number = 1 if (epoch or 0) > last_epoch else number + 1
        self._set_attribute(session, trial_id, DEATHS, [number, max(epoch or 0, last_epoch)])
        return number

    def _take_over(self, session: Session, *, may_reap: bool) -> tuple[int | None, bool]:
        """Return the trial that is ours now, and whether its owner fell silent with it."""
        now = session.scalar(select(func.now()))
        assert now is not None
        expired = now.replace(tzinfo=None) - dt.timedelta(seconds=self.lease_s)
        is_dead = _Heartbeat.heartbeat.is_(None) | (_Heartbeat.heartbeat < expired)
        is_free = _Trial.state == TrialState.WAITING
        if may_reap:
            is_free |= (_Trial.state == TrialState.RUNNING) & is_dead
        found = session.execute(
            select(_Trial.trial_id, _Trial.state, _Heartbeat.heartbeat)
            .outerjoin(_Heartbeat, _Heartbeat.trial_id == _Trial.trial_id)
            .where(_Trial.study_id == self._study_id, is_free)
            .order_by(_Trial.trial_id)
            .limit(1)
        ).first()
        if found is None:
            return None, False
        trial_id, state, heartbeat = found
        beat = update(_Heartbeat).where(_Heartbeat.trial_id == trial_id)
        if state == TrialState.RUNNING:
            beat = beat.where(is_dead)
        if heartbeat is None:
            session.add(_Heartbeat(trial_id=trial_id))
        elif not _changed(session, beat.values(heartbeat=func.current_timestamp())):
            return None, False  # its owner has come back in this very moment
        # Else the time between the attempts would count as the trial's.
        is_taken = _changed(
            session,
            update(_Trial)
            .where(_Trial.trial_id == trial_id, _Trial.state == state)
            .values(state=TrialState.RUNNING, datetime_start=dt.datetime.now()),
        )
        return (int(trial_id), state == TrialState.RUNNING) if is_taken else (None, False)

    def _count_not_failed(self, session: Session) -> int:
        count = session.scalar(
            select(func.count())
            .select_from(_Trial)
            .where(_Trial.study_id == self._study_id, _Trial.state != TrialState.FAIL)
        )
        return count or 0

    def _read_attributes(
        self, session: Session, trial_id: int, keys: Collection[str]
    ) -> dict[str, Any]:
        rows = session.execute(
            select(_Attribute.key, _Attribute.value_json).where(
                _Attribute.trial_id == trial_id, _Attribute.key.in_(keys)
            )
        )
        return {key: json.loads(value) for key, value in rows}

    def _drop_steps(self, session: Session, lease: Lease, keep: Collection[int]) -> None:
        session.execute(
            delete(_Value).where(_Value.trial_id == lease.trial_id, _Value.step.not_in(list(keep)))
        )

    def _annotate(self, session: Session, lease: Lease, attributes: Mapping[str, Any]) -> None:
        for key, value in attributes.items():
            self._set_attribute(session, lease.trial_id, key, value)

    def _set_attribute(self, session: Session, trial_id: int, key: str, value: Any) -> None:
        self._storage._set_trial_attr_without_commit(session, _Attribute, trial_id, key, value)


def open_trial(
    study: optuna.Study, lease: Lease, make_sampler: Callable[[int], BaseSampler]
) -> optuna.Trial:
    """Return the trial of a lease, to sample its parameters with the sampler of its number."""
    storage = study._storage
    # Optuna's caches have not seen the row yet: the claim wrote it on a connection of its own.
    # No states: to read it is enough, and sorting all trials takes milliseconds in a large study.
    storage.get_all_trials(study._study_id, deepcopy=False, states=())
    study._thread_local.cached_all_trials = None
    study.sampler = make_sampler(storage.get_trial_number_from_id(lease.trial_id))
    return optuna.Trial(study, lease.trial_id)


def _changed(session: Session, statement: Any) -> bool:
    result: Any = session.execute(statement.execution_options(synchronize_session=False))
    return bool(result.rowcount == 1)
