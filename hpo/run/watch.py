"""Follows a worker by its test log until it ends, is pruned, or has to stop."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import optuna

from hpo.launchers import Handle
from hpo.launchers.stop_times import END_GRACE_S, KEEP_STATE_GRACE_S
from hpo.plan.pruners import pruner_errors_named
from hpo.run.outcome import LOST, AttemptResult, End, classify, cut_off, failed_by
from hpo.run.score_log import ScoreLog
from hpo.store.claim import Lease
from hpo.store.database import DATABASE_ERRORS, DatabaseRetry
from hpo.store.directions import direction_of
from hpo.store.lease import LeaseManager
from hpo.store.renewer import Renewer
from hpo.store.sampling import should_prune
from trainer.errors import ConfigError
from trainer.rundir import Evaluation

# Between two looks at a worker: a tenth of its age, so that a short one costs little, up to this.
POLL_INTERVAL_S = 0.05
MIN_POLL_INTERVAL_S = 0.002
DATABASE_INTERVAL_S = 1.0  # between two tries to reach a database that is away

Why = Literal["pruned", "out of time", "cut off"]


@dataclass
class Watch:
    """One worker that is followed.

    Attributes:
        log: the worker's scores, read as far as an earlier attempt has written it.
        inherited: what it says so far. The worker may go on from before that, and then it
            replaces the log; no decision rests on this.
        keeps_state: whether the worker can write a state, from which another attempt resumes.
        pause_after: the epoch after which the worker ends, for the trial to be paused.
        deadline: `time.monotonic()` after which the worker is stopped.
        pruner: its name.
        on_gpu: whether it computes on one.
        tell_epoch: called with each epoch's score and the best so far.
    """

    study: optuna.Study
    lease: Lease
    handle: Handle
    log: ScoreLog
    inherited: Mapping[int, float]
    num_epochs: int
    lease_manager: LeaseManager
    renewer: Renewer
    retry: DatabaseRetry
    stopping: threading.Event
    tell_epoch: Callable[[Evaluation, float], None]
    pruner: str
    keeps_state: bool = False
    pause_after: int | None = None
    deadline: float | None = None
    on_gpu: bool = False
    _curve: dict[int, float] = field(default_factory=dict)
    _unreported: dict[int, float] = field(default_factory=dict)
    _is_replaced: bool = False
    _next_try: float = 0.0

    def follow(self) -> AttemptResult:
        """Report each epoch until there is nothing more to come; leave no worker behind.

        While the database is away the worker goes on, and what it reaches is reported late.
        """
        attempt_result: AttemptResult | None = None
        try:
            attempt_result = self._follow()
            return attempt_result
        finally:
            # Given back, or cut off by an error of ours: somebody goes on with it.
            if self.keeps_state and (attempt_result is None or attempt_result.end == "given back"):
                self.handle.stop(KEEP_STATE_GRACE_S, keep_state=True)
            else:
                self.handle.stop()

    def _follow(self) -> AttemptResult:
        self._curve.update(self.inherited)
        why: Why | None = None  # of our stopping the worker
        began = time.monotonic()
        end_deadline: float | None = None  # of a worker that hangs after its last epoch
        while True:
            code = self.handle.poll()  # before reading: what was written before the end is read
            if text := self._read(has_ended=code is not None):
                end: End = "refused" if self.log.refusal else "failed"
                return replace(failed_by(ConfigError(text)), end=end, curve=self._curve)
            was_pending = bool(self._unreported)
            is_ours = self._report()
            if not is_ours or self.renewer.is_lost(self.lease):
                return AttemptResult("lost", self._curve, LOST)
            if not self._unreported:
                if why is not None:
                    return self._stopped(why)
                if code is not None:
                    return self._ended(code)
                # a trial that has had its last epoch is complete: there is nothing to save
                if was_pending and not self._is_whole and self._should_prune():
                    why = "pruned"
            if code is None:
                why = why or self._over()
            if why is not None and code is None:
                self.handle.stop()
                # What it has written meanwhile counts: its best checkpoint is that of these lines.
                continue
            end_deadline = self._end_deadline(end_deadline)
            if end_deadline is not None and time.monotonic() > end_deadline:
                self.handle.stop()
                text = f"the worker did not end within {END_GRACE_S:.0f} s of its last epoch"
                end = "paused" if self._is_at_rung() else "complete"
                return AttemptResult(end, self._curve, text)
            age_s = time.monotonic() - began
            if self.stopping.wait(min(max(age_s / 10, MIN_POLL_INTERVAL_S), POLL_INTERVAL_S)):
                return AttemptResult("given back", self._curve)

    def _over(self) -> Why | None:
        """Return which time is over, the trial's or the study's; None if there is some left."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            return "out of time"
        return "cut off" if self.lease_manager.budget.is_over() else None

    @property
    def _is_whole(self) -> bool:
        return self.num_epochs in self._curve

    @property
    def _is_done(self) -> bool:
        """Whether the worker has nothing more to train: it is whole, or at its rung."""
        return (self.pause_after or self.num_epochs) in self._curve

    def _end_deadline(self, before: float | None) -> float | None:
        """Return when the worker is ended that has nothing more to train, None while it has."""
        if not self._is_done:
            return None  # also again, if it repeats epochs that an earlier attempt had logged
        if before is None and not self._unreported:
            return time.monotonic() + END_GRACE_S
        return before

    def _ended(self, code: int) -> AttemptResult:
        if code == 0 and self._is_at_rung():
            return AttemptResult("paused", self._curve)
        return classify(code, self._curve, self.handle, on_gpu=self.on_gpu)

    def _is_at_rung(self) -> bool:
        """Say whether the worker has come to where it pauses, and not to its last epoch.

        It may be past its rung, if a worker that cannot pause has begun the trial.
        """
        if self.pause_after is None:
            return False
        return self.pause_after <= max(self._curve, default=0) < self.num_epochs

    def _read(self, *, has_ended: bool) -> str:
        """Take what is new; return why the worker does something else than it was asked for."""
        entries = self.log.read_new()
        if has_ended:
            self.log.end()
        if self.log.was_replaced:  # the worker goes on from an earlier epoch than its log said
            self._curve.clear()
            self._unreported.clear()
            self._is_replaced = True
        for entry in entries:
            # A worker may write what it likes.
            is_epoch = 0 <= entry.epoch <= self.num_epochs
            if is_epoch and entry.epoch not in self._curve and math.isfinite(entry.accuracy):
                self._curve[entry.epoch] = self._unreported[entry.epoch] = entry.accuracy
                self.tell_epoch(entry, direction_of(self.study).best(self._curve.values()))
        return self.log.refusal or self.log.problem

    def _report(self) -> bool:
        """Report what is new, if the database answers; say whether the trial is still ours."""
        now = time.monotonic()
        if not (self._unreported or self._is_replaced) or now < self._next_try:
            return True
        try:
            if self._is_replaced and not self.lease_manager.keep_steps(self.lease, self._curve):
                return False
            self._is_replaced = False
            if self._unreported and not self.lease_manager.report(self.lease, self._unreported):
                return False
        except DATABASE_ERRORS as error:
            self.retry.failed(error)
            self._next_try = now + DATABASE_INTERVAL_S
            return True
        self.retry.succeeded()
        self._unreported.clear()
        return True

    def _should_prune(self) -> bool:
        try:
            with pruner_errors_named(self.pruner):
                return should_prune(self.study, self.lease.trial_id)
        except DATABASE_ERRORS as error:
            self.retry.failed(error)
            return False

    def _stopped(self, why: Why) -> AttemptResult:
        if why == "cut off":
            return cut_off(self._curve, self.num_epochs)
        if why == "pruned":  # it may have come to its last epoch before it was stopped
            return AttemptResult("complete" if self._is_whole else "pruned", self._curve)
        if self._curve:
            return AttemptResult("out of time", self._curve, "stopped by --trial-timeout")
        return AttemptResult("failed", message="no epoch was evaluated within --trial-timeout")
