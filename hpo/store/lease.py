"""Reserves trials of a shared study, so that it gets exactly as many as were asked for.

The trial's row is the reservation, its heartbeat row the lease, the user attribute "lease" the
fencing token: no table of our own. One transaction, opened by the lock that Optuna itself takes
(the study's row FOR UPDATE), either takes over a trial whose owner is dead or inserts a new one
if fewer than N are not failed, and writes heartbeat and token with it (`claim`). Nothing of
Optuna's study API may be called inside: on another connection it would wait for this one for ever.

What an owner writes (parameters, reports, the end) goes through one transaction that begins by
renewing the lease: it waits for a take-over that is under way, and then finds that the token is
not its own. All that it writes replaces what is there, so that it can be written again if the
connection breaks before the answer.

Every statement is a round trip, and every transaction a write to the disk, so there are few of
either: the tables are written directly, by SQLAlchemy's Core. This module, `claim`, `available`,
`trial_rows`, `task_lease`, `presence` and `agreement` know Optuna's tables (5.0:
`optuna.storages._rdb.models`), `sampling` uses its private names and `hpo.study.queries` reads its
tables, which is why that version is pinned.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, func, select, update

from hpo.keys import ATTEMPT, CRASHES, NUM_TRIALS, PAUSED, TOKEN
from hpo.store import clock
from hpo.store.agreement import agree_on_total, check_identity, read_agreed
from hpo.store.available import count_finished, is_any_open, is_dead
from hpo.store.claim import Lease, take_over
from hpo.store.connections import close_idle
from hpo.store.database import DatabaseRetry, locking_engine
from hpo.store.directions import read_direction
from hpo.store.pausing import (
    KnownTrial,
    Planning,
    Promotion,
    Terms,
    TimeLeft,
    promote_or_start,
    read_known,
    read_paused,
)
from hpo.store.presence import Presence
from hpo.store.shared_budget import SharedBudget, settle
from hpo.store.trial_rows import TrialRows
from trainer.direction import Direction

P = ParamSpec("P")
T = TypeVar("T")

_Study, _Trial = models.StudyModel, models.TrialModel
_Heartbeat, _Attribute = models.TrialHeartbeatModel, models.TrialUserAttributeModel


class LeaseManager:
    """Claims, renews and gives back leases on the trials of one study.

    With a `retry`, its methods repeat until the database answers. Not so `claim`, `renew`,
    `report` and `keep_steps`: they are called again in any case, with what is true by then.
    """

    def __init__(
        self,
        storage: RDBStorage,
        study_id: int,
        *,
        lease_s: float,
        owner: str = "",
        identity: Mapping[str, str] | None = None,
        retry: DatabaseRetry | None = None,
    ) -> None:
        """Make one; `owner` begins its tokens, to tell who holds what.

        With an `identity` it claims trials only while the study is that very search.
        """
        self.lease_s = lease_s
        self._owner = owner
        self._study_id = study_id
        self._identity = identity
        self._retry = retry
        self.total = 0  # what the drivers had agreed on at the last claim
        self._direction: Direction | None = None  # once it was read
        self._engine = locking_engine(storage)
        self.budget = SharedBudget(self._engine, study_id)
        self.presence = Presence(self._engine, study_id, owner=owner, lease_s=lease_s)
        self._owns_engine = self._engine is not storage.engine

    def claim(
        self,
        num_trials: int,
        *,
        may_reap: bool = True,
        held: Collection[str] = (),
        promotion: Promotion | None = None,
        planning: Planning | None = None,
    ) -> Lease | None:
        """Take over a trial without an owner, else go on with a paused one, else start a new one.

        None if there is none of these and N are taken. N is the largest that any driver of the
        study has asked for. Trials that a plain Optuna script runs are its own: they are never
        taken over, nor waited for.

        Once the study's budget of time is over, what is taken over is handed out to be ended.

        Args:
            num_trials: N of this driver.
            may_reap: whether trials of silent drivers may be taken, or only what waits.
            held: the tokens of this driver's own leases, which it never takes from itself,
                however late they are.
            promotion: the rule by which paused trials go on, where trials are paused.
            planning: the rule by which the time is used, where the study has a budget.

        Raises:
            UsageError: the study has become another search than ours.
        """
        here = self._readable(promotion)  # before the lock, for it looks at files
        token = f"{self._owner}/{uuid.uuid4().hex}"
        began = clock.seconds()
        with self._engine.begin() as connection:
            now = self._lock_study(connection)
            # A database that hung until now has let everybody's lease expire.
            is_prompt = clock.seconds() - began < self.lease_s / 4
            agreed = read_agreed(connection, self._study_id)
            self.total = self._total(agreed, num_trials)
            time, limit = None, self.budget.look(connection, agreed)
            if limit is not None and planning is not None:
                time = TimeLeft(planning, limit.left_s)
            is_over = time is not None and time.seconds <= 0
            spared = held if may_reap and is_prompt else None
            is_late = is_dead(now, self.lease_s)
            lease = take_over(
                connection, self._study_id, token, is_late, spared, begun_only=is_over
            )
            if lease is not None:
                lease = replace(lease, ends=is_over)
            else:
                agree_on_total(connection, self._study_id, agreed, num_trials)
                terms = Terms(
                    total=self.total,
                    promotion=promotion,
                    here=here,
                    expired=now - dt.timedelta(seconds=self.lease_s),
                    direction=self._read_direction(connection),
                    time=time,
                )
                lease = promote_or_start(connection, self._study_id, token, terms)
            if time is not None:
                is_done = lease is None and not is_any_open(connection, self._study_id)
                settle(connection, self._study_id, agreed, is_done=is_done)
            return lease

    def num_trials(self, num_trials: int) -> int:
        """Return the total that the drivers of this study have agreed on, at least this one's.

        Raises:
            UsageError: the study has become another search than ours.
        """
        with self._engine.connect() as connection:
            return self._total(read_agreed(connection, self._study_id), num_trials)

    def num_finished(self) -> int:
        """Return how many trials count towards the total."""
        with self._engine.begin() as connection:
            return count_finished(connection, self._study_id)

    def renew(self, lease: Lease) -> bool:
        """Renew a lease; False if somebody else has the trial or it is finished."""
        return self._as_owner(lease, lambda rows: None)

    def set_params(self, lease: Lease, trial: FrozenTrial) -> bool:
        """Store the parameters of a trial, if it is still ours; say whether it is."""
        return self._wait(self._as_owner, lease, lambda rows: rows.set_params(trial))

    def report(self, lease: Lease, curve: Mapping[int, float]) -> bool:
        """Store values by step, if the trial is still ours; say whether it is."""
        return self._as_owner(lease, lambda rows: rows.report(curve))

    def annotate(self, lease: Lease, attributes: Mapping[str, Any]) -> bool:
        """Store attributes of a trial, if it is still ours; say whether it is."""
        return self._wait(self._as_owner, lease, lambda rows: rows.annotate(attributes))

    def begin(self, lease: Lease, *, keep: Collection[int], attributes: Mapping[str, Any]) -> bool:
        """Record that a worker starts, which goes on after the steps in `keep`."""

        def write(rows: TrialRows) -> None:
            if lease.attempt > 1:  # a new trial has no steps
                rows.keep_steps(keep)
            rows.annotate(attributes)

        return self._wait(self._as_owner, lease, write)

    def keep_steps(self, lease: Lease, steps: Collection[int]) -> bool:
        """Delete what an earlier attempt reported beyond these steps, if the trial is ours."""
        return self._as_owner(lease, lambda rows: rows.keep_steps(steps))

    def start_again(self, lease: Lease, *, crashed: bool = True) -> Lease | None:
        """Count an attempt that failed, and return the lease of the next; None if it is lost."""
        next_lease = replace(
            lease, attempt=lease.attempt + 1, num_crashes=lease.num_crashes + crashed
        )
        counts = {ATTEMPT: next_lease.attempt, CRASHES: next_lease.num_crashes}
        return next_lease if self.annotate(lease, counts) else None

    def finish(
        self,
        lease: Lease,
        state: TrialState,
        value: float | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> bool:
        """End a trial as `Study.tell` does, with its last attributes, if it is still ours."""

        def write(rows: TrialRows) -> None:
            rows.annotate(attributes or {})
            if value is not None:
                rows.set_value(value)
            rows.set_state(state)

        def end() -> bool:
            return self._as_owner(lease, write) or self._is_finished_by(lease)

        return self._wait(end)

    def pause(
        self, lease: Lease, curve: Mapping[int, float], attributes: Mapping[str, Any]
    ) -> bool:
        """Put a trial back until it is promoted, with the attribute PAUSED among those given.

        Returns whether it was still ours. Its curve is written with it, for the rule rests on it.
        """

        def write(rows: TrialRows) -> None:
            rows.report(curve)
            rows.annotate(attributes)
            rows.set_state(TrialState.WAITING)
            rows.forget(TOKEN)

        def put_back() -> bool:
            return self._as_owner(lease, write) or self._is_paused_by(lease)

        return self._wait(put_back)

    def known_trials(self) -> list[KnownTrial]:
        """Return the trials that have not failed, with their curves."""

        def read() -> list[KnownTrial]:
            with self._engine.begin() as connection:
                direction = self._read_direction(connection)
                return read_known(connection, self._study_id, direction)

        return self._wait(read)

    def give_back(
        self,
        lease: Lease,
        *,
        waits: bool = True,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Put a trial back for anyone to take over, if it is still ours.

        Without the token: a plain Optuna script may take it, and it is the script's then. Without
        waiting for the database it may fail, and the lease expires.
        """

        def write(rows: TrialRows) -> None:
            rows.annotate(attributes or {})
            rows.set_state(TrialState.WAITING)
            rows.forget(TOKEN)

        if waits:
            self._wait(self._as_owner, lease, write)
        else:
            self._as_owner(lease, write)

    def close_idle(self) -> None:
        """Close the connections that nobody uses."""
        close_idle(self._engine)

    def close(self) -> None:
        """Close the connections."""
        if self._owns_engine:
            self._engine.dispose()

    def _wait(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._retry is None:
            return action(*args, **kwargs)
        return self._retry.call(action, *args, **kwargs)

    def _total(self, agreed: Mapping[str, Any], num_trials: int) -> int:
        if self._identity is not None:
            check_identity(agreed, self._identity)
        return max(num_trials, int(agreed.get(NUM_TRIALS) or 0))

    def _read_direction(self, connection: Connection) -> Direction:
        if self._direction is None:
            self._direction = read_direction(connection, self._study_id)
        return self._direction

    def _lock_study(self, connection: Connection) -> dt.datetime:
        """Wait for the study's lock; return the database's clock as it was before that."""
        now = connection.scalar(
            select(func.now())
            .select_from(_Study)
            .where(_Study.study_id == self._study_id)
            .with_for_update()
        )
        if now is None:
            raise KeyError(models.NOT_FOUND_MSG)
        return now.replace(tzinfo=None)

    def _as_owner(self, lease: Lease, write: Callable[[TrialRows], None]) -> bool:
        with self._engine.connect() as connection:
            # First the row that a take-over changes first, to wait for one that is under way;
            # then a statement of its own, or it would see the token as it was before the wait.
            connection.execute(
                update(_Heartbeat)
                .where(_Heartbeat.trial_id == lease.trial_id)
                .values(heartbeat=func.current_timestamp())
            )
            is_ours = connection.scalar(
                select(_Trial.trial_id)
                .join(_Attribute, _Attribute.trial_id == _Trial.trial_id)
                .where(
                    _Trial.trial_id == lease.trial_id,
                    _Trial.state == TrialState.RUNNING,
                    _Attribute.key == TOKEN,
                    _Attribute.value_json == json.dumps(lease.token),
                )
            )
            if is_ours is None:
                return False  # without a commit: nothing is renewed
            write(TrialRows(connection, lease.trial_id))
            connection.commit()
        return True

    def _readable(self, promotion: Promotion | None) -> set[int]:
        """Return the numbers of the paused trials whose state is here."""
        if promotion is None:
            return set()
        with self._engine.connect() as connection:
            paused = read_paused(connection, self._study_id)
        return {number for number, each in paused.items() if promotion.can_read(number, each)}

    def _is_paused_by(self, lease: Lease) -> bool:
        """Say whether we paused it ourselves, and the connection broke before we heard of it."""
        with self._engine.begin() as connection:
            rows = TrialRows(connection, lease.trial_id)
            paused = rows.attributes((PAUSED,)).get(PAUSED, {})
            is_waiting = rows.state() == TrialState.WAITING
        return is_waiting and paused.get("attempt") == lease.attempt

    def _is_finished_by(self, lease: Lease) -> bool:
        """Say whether we ended it ourselves, and the connection broke before we heard of it."""
        with self._engine.begin() as connection:
            rows = TrialRows(connection, lease.trial_id)
            state, token = rows.state(), rows.attributes((TOKEN,)).get(TOKEN)
            return state is not None and state.is_finished() and token == lease.token
