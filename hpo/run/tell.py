"""Writes to the study how a trial ended, or that it is paused or given back, and what follows."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import optuna

from hpo.keys import CONSTRAINTS, END, MEMORY, PAUSED, SPENT
from hpo.plan.spec import StudySpec
from hpo.records import EndRecord
from hpo.results.best_model import Results
from hpo.results.metrics import read_classes
from hpo.results.provenance import Stopwatch, describe_end
from hpo.run.outcome import LOST, STATES, AttemptResult, Outcome, memory_advice
from hpo.run.pages import DashboardPages, ToldTrial
from hpo.run.pausing import Pausing
from hpo.run.progress import Reporter
from hpo.run.tracking import Tracking
from hpo.store.claim import Lease
from hpo.store.database import DatabaseRetry
from hpo.store.lease import LeaseManager
from hpo.store.study import COUNTED, finished_trials


@dataclass(frozen=True)
class Job:
    """A trial with its values: of config fields, and as the study names them."""

    number: int
    chosen: dict[str, Any]
    clock: Stopwatch
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Teller:
    """What the end of a trial needs."""

    spec: StudySpec
    study: optuna.Study
    lease_manager: LeaseManager
    retry: DatabaseRetry
    results: Results
    pages: DashboardPages
    tracking: Tracking
    reporter: Reporter
    stopping: threading.Event
    pausing: Pausing | None

    def finish(self, job: Job, lease: Lease, attempt_result: AttemptResult) -> Outcome:
        """Write to the study how the trial ended, if it is still ours."""
        direction = self.spec.objective.direction
        if attempt_result.end == "out of memory":
            attempt_result = self.retry.call(self._note_memory, job, lease, attempt_result)
        if attempt_result.end == "given back" or (
            self.stopping.is_set() and attempt_result.is_crash
        ):
            attempt_result = replace(attempt_result, end="given back")
            self.lease_manager.give_back(lease, attributes={SPENT: job.clock.seconds()})
        elif attempt_result.end == "paused":
            if self._pause(job, lease, attempt_result):
                self._record_pause(job)
            else:
                attempt_result = replace(attempt_result, end="lost", message=LOST)
        elif attempt_result.end != "lost":
            state = STATES[attempt_result.end]
            value = direction.best_score(attempt_result.curve) if state in COUNTED else None
            end = self._end(job, lease, attempt_result)
            if self.lease_manager.finish(lease, state, value, {END: end}):
                self._show(job, lease, attempt_result, end)
                self._record(job)
            else:
                attempt_result = replace(attempt_result, end="lost", message=LOST)
        outcome = Outcome(
            number=job.number,
            end=attempt_result.end,
            score=direction.best_score(attempt_result.curve),
            epoch=direction.best_epoch(attempt_result.curve),
            num_epochs=len(attempt_result.curve),
            params=job.params,
            curve=attempt_result.curve,
            seconds=job.clock.total,
            message=attempt_result.message,
            log_tail=attempt_result.log_tail,
            cause=attempt_result.cause,
        )
        run_dir = self.spec.folders.attempt(job.number, lease.attempt)
        self.tracking.trial_ended(outcome, lease.attempt, run_dir)
        return outcome

    def _end(self, job: Job, lease: Lease, attempt_result: AttemptResult) -> EndRecord:
        direction = self.spec.objective.direction
        epoch = direction.best_epoch(attempt_result.curve)
        end = describe_end(
            end=attempt_result.end,
            score=direction.best_score(attempt_result.curve),
            epoch=epoch,
            message=attempt_result.message,
            log_tail=attempt_result.log_tail,
            attempt=lease.attempt,
            seconds=job.clock.seconds(),
        )
        if not self.spec.objective.is_default:
            end["score"] = end.pop("dice_dataset")
            end["objective"] = self.spec.objective.key
        run_dir = self.spec.folders.attempt(job.number, lease.attempt)
        if classes := read_classes(run_dir, self.spec.num_epochs, epoch):
            end["dice_per_class"] = classes
        return end

    def _pause(self, job: Job, lease: Lease, attempt_result: AttemptResult) -> bool:
        """Give a trial back that waits to be promoted; say whether it was still ours."""
        assert self.pausing is not None
        curve = attempt_result.curve
        end = self._end(job, lease, replace(attempt_result, end="pruned"))
        attributes: dict[str, Any] = {
            PAUSED: self.pausing.record(max(curve), lease, job.clock.total, end),
            SPENT: end["seconds"],
        }
        is_ours = self.lease_manager.pause(lease, curve, attributes)
        if is_ours:
            self._show(job, lease, attempt_result, end, is_paused=True)
        return is_ours

    def _show(
        self,
        job: Job,
        lease: Lease,
        attempt_result: AttemptResult,
        end: EndRecord,
        *,
        is_paused: bool = False,
    ) -> None:
        """Have the dashboard show what came of the trial."""
        told = ToldTrial(
            trial_id=lease.trial_id,
            number=job.number,
            attempt=lease.attempt,
            params=job.chosen,
            end=end,
            curve=attempt_result.curve,
            is_paused=is_paused,
        )
        self.pages.trial_told(told, self.spec.num_expected(job.number + 1))

    def _record_pause(self, job: Job) -> None:
        """Remove states that are not needed any more, and write the list."""
        assert self.pausing is not None
        known = self.lease_manager.known_trials()
        # Where nobody knows how many will come: those that are here are half of them, say.
        self.pausing.drop_states(known, self.spec.num_expected(2 * len(known)))
        try:
            self.retry.call(self.results.refresh_list_acc, self.study)
        except OSError as error:
            self.reporter.warn_once(f"{error.filename}: {error.strerror}")

    def _note_memory(self, job: Job, lease: Lease, attempt_result: AttemptResult) -> AttemptResult:
        """Tell the sampler that these values don't fit the memory, and the user what would."""
        # The dashboard reads constraints from user attributes.
        is_ours = self.lease_manager.annotate(lease, {CONSTRAINTS: {MEMORY: 1.0}})
        trial = optuna.Trial(self.study, lease.trial_id)
        if is_ours and MEMORY not in trial.constraints:
            trial.set_constraint(MEMORY, 1.0)
        advice = memory_advice(finished_trials(self.study), job.chosen, self.spec.base)
        return replace(attempt_result, message=advice)

    def _record(self, job: Job) -> None:
        try:
            if warning := self.retry.call(self.results.settle, self.study, job.number):
                self.reporter.warn_once(f"best_model/ is not the best: {warning}")
            self.retry.call(self.results.refresh_list_acc, self.study)
        except OSError as error:  # the trial is in the database; the next one writes the list
            self.reporter.warn_once(f"{error.filename}: {error.strerror}")
