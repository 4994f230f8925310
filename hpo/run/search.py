"""Runs a search: one thread per slot, each taking trial after trial until N are finished."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import optuna
from optuna.trial import FrozenTrial

from hpo.errors import LauncherError, SlotError, UsageError
from hpo.launchers import Launcher, Slot
from hpo.plan.pruners import make_pruner
from hpo.plan.spec import StudySpec
from hpo.results.best_model import Results
from hpo.run.claims import Claims
from hpo.run.disk import DiskFullError, FolderGoneError
from hpo.run.failures import (
    FAILED,
    NUM_SAME_FAILURES,
    FailureCount,
    FailurePolicy,
    count_failed,
    launch_delay_s,
)
from hpo.run.outcome import Outcome
from hpo.run.pages import DashboardPages
from hpo.run.pausing import Pausing
from hpo.run.progress import Reporter, Tally
from hpo.run.same_curves import SameCurves
from hpo.run.time_plan import TimePlanning
from hpo.run.tracking import Tracking
from hpo.run.trial import TrialRunner
from hpo.store.claim import Lease
from hpo.store.database import WAIT_LIMIT_S, DatabaseRetry
from hpo.store.lease import LeaseManager
from hpo.store.renewer import Renewer
from hpo.store.shared_budget import SharedBudget
from hpo.store.study import COUNTED, best_of, is_paused, score
from trainer.wording import counted

ROOM_INTERVAL_S = 2.0  # between two looks at a disk that was full


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search with everything it needs.

    Attributes:
        num_failed_before: trials of the study that had failed when this driver started.
        stopping: set from outside (a signal) to stop the workers and give the trials back.
        same_curves: the curves of the study's trials when this driver started.
        restore: writes the study's inputs again (networks, weights, split) if they were removed.
    """

    spec: StudySpec
    policy: FailurePolicy
    study: optuna.Study
    launcher: Launcher
    slots: Sequence[Slot]
    num_procs: int
    lease_manager: LeaseManager
    retry: DatabaseRetry
    results: Results
    pages: DashboardPages
    tracking: Tracking
    reporter: Reporter
    tally: Tally
    num_failed_before: int
    stopping: threading.Event
    restore: Callable[[], None]
    same_curves: SameCurves
    _failures: FailureCount = field(default_factory=FailureCount)
    _lost: dict[int, str] = field(default_factory=dict)  # slots that are used no more, and why
    _has_launched: threading.Event = field(default_factory=threading.Event)
    _restoring: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Run until the study has N finished trials or `stopping` is set.

        Raises:
            FailureLimitError: too many trials failed, or several in a row alike.
            DiskFullError: the disk is full, and waiting has not helped.
            LauncherError: no worker can be started, and waiting has not helped.
            StorageError: the database went away.
        """
        self._sweep()
        renewer = Renewer(self.lease_manager)
        claims = self._claims(renewer)
        errors: list[BaseException] = []
        threads = [
            threading.Thread(
                target=self._run_slot, args=(slot, renewer, claims, errors), name=f"slot-{i}"
            )
            for i, slot in enumerate(self.slots)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)  # in steps, so that signals are seen
        except BaseException:
            self.stopping.set()
            for thread in threads:
                thread.join()
            raise
        finally:
            renewer.close()
        if errors:
            raise errors[0]

    def usable_slot(self) -> Slot:
        """Return the first slot that was not left out; there is one as long as `run` returns."""
        return next(slot for slot in self.slots if slot.index not in self._lost)

    def _run_slot(
        self, slot: Slot, renewer: Renewer, claims: Claims, errors: list[BaseException]
    ) -> None:
        try:
            self._take_trials(slot, renewer, claims)
        except BaseException as error:  # noqa: BLE001  # reported by run(), in the main thread
            errors.append(error)
            self.stopping.set()

    def _take_trials(self, slot: Slot, renewer: Renewer, claims: Claims) -> None:
        # A study object of its own: it carries the sampler of the trial at hand.
        study = self.retry.call(
            optuna.load_study,
            study_name=self.spec.name,
            storage=self.study._storage,
            pruner=make_pruner(self.spec, pauses=self._pauses),
        )
        runner = TrialRunner(
            spec=self.spec,
            policy=self.policy,
            study=study,
            launcher=self.launcher,
            slot=slot,
            num_procs=self.num_procs,
            lease_manager=self.lease_manager,
            renewer=renewer,
            retry=self.retry,
            results=self.results,
            pages=self.pages,
            tracking=self.tracking,
            reporter=self.reporter,
            stopping=self.stopping,
            pausing=self.pausing,
        )
        num_refused = num_gone = 0  # in a row
        full_since: float | None = None
        num_trials = self.spec.num_trials
        while lease := claims.next():
            if (
                total := self.lease_manager.total
            ) != num_trials:  # another driver has asked for more
                self.tally.num_trials = num_trials = total
                spec = replace(self.spec, num_trials=total)
                study.pruner = make_pruner(spec, pauses=self._pauses)
                runner = replace(runner, spec=spec)
            if lease.attempt > 1 and not lease.was_paused:
                self._sweep()  # somebody may have died
            try:
                outcome = runner.run(lease)
            except SlotError as error:  # the trial was given back, and another slot takes it
                self._leave_out(slot, error)
                return
            except FolderGoneError as error:  # the trial was given back
                num_gone += 1
                if num_gone == NUM_SAME_FAILURES:
                    raise
                self._restore(error)
                continue
            except DiskFullError as error:  # the trial was given back
                full_since = full_since or time.monotonic()
                self._wait_for_room(error, full_since)
                continue
            except LauncherError as error:  # the trial was given back
                delay_s = launch_delay_s(num_refused)
                # What has never worked will not by waiting.
                is_hopeless = not self._has_launched.is_set() or self.stopping.is_set()
                if is_hopeless or delay_s is None:
                    raise
                self.reporter.warn(f"{error}; tries again in {delay_s:g} s")
                num_refused += 1
                self.stopping.wait(delay_s)
                continue
            finally:
                claims.trial_ended()
            num_refused, num_gone, full_since = 0, 0, None
            self._has_launched.set()
            self._account(slot, study, outcome)

    def _leave_out(self, slot: Slot, error: SlotError) -> None:
        """Go on without a slot, whose GPU cannot be used, as long as there are others."""
        self._lost[slot.index] = f"{', '.join(slot.gpu_uuids)}: {error}"
        if len(self._lost) == len(self.slots):
            why = "; ".join(self._lost.values())
            raise LauncherError(f"no GPU can be used here ({why}); say --no-gpu to use the CPU")
        self.reporter.warn(f"left out from now on: {self._lost[slot.index]}")

    def _restore(self, error: FolderGoneError) -> None:
        """Make again what workers read, if that is gone too."""
        self.reporter.warn(f"{error}; it is made again, and its trial is given back")
        with self._restoring:
            if not self.spec.has_inputs():
                self.restore()

    def _wait_for_room(self, error: DiskFullError, full_since: float) -> None:
        """Let other nodes go on while the disk of this one is full."""
        self.reporter.warn(f"{error}; until then this slot waits, and its trial is given back")
        while not self.stopping.wait(ROOM_INTERVAL_S):
            if time.monotonic() - full_since > WAIT_LIMIT_S:
                raise error
            if error.has_room():
                return

    @cached_property
    def pausing(self) -> Pausing | None:
        """When trials are paused; None if they never are."""
        return Pausing.of(self.spec, self.launcher)

    @cached_property
    def _time_planning(self) -> TimePlanning:
        direction = self.spec.objective.direction
        return TimePlanning.of(self.spec.num_epochs, direction, self.pausing)

    @property
    def _pauses(self) -> bool:
        return self.pausing is not None and self.pausing.is_able

    def _sweep(self) -> None:
        if num_ended := self.launcher.sweep():
            self.reporter.warn(
                f"ended {counted(num_ended, 'worker')} that a dead driver had left here"
            )

    def _claims(self, renewer: Renewer) -> Claims:
        def claim() -> Lease | None:
            return self.lease_manager.claim(
                self.spec.num_trials,
                may_reap=renewer.is_steady,
                held=renewer.tokens,
                promotion=self.pausing,
                planning=self._time_planning,
            )

        def is_done() -> bool:
            num_trials = self.lease_manager.num_trials(self.spec.num_trials)
            num_finished = self.lease_manager.num_finished()
            budget = self.lease_manager.budget.read()
            is_done = num_finished >= num_trials or (budget is not None and budget.is_done)
            self.tally.settle(num_trials, num_finished, is_done=is_done)
            return is_done

        return Claims(
            # Each try asks anew what may be taken over: after an outage nothing may be.
            claim=partial(self.retry.call, claim),
            is_done=partial(self.retry.call, is_done),
            stopping=self.stopping,
        )

    def _account(self, slot: Slot, study: optuna.Study, outcome: Outcome) -> None:
        with self._failures.lock:
            self.tally.add(outcome)
            self.reporter.trial_ended(slot.index, outcome, self.tally)
            if outcome.counts or outcome.end == "paused":
                warning = self.same_curves.add(outcome.number, outcome.params, outcome.curve)
                if warning is not None:
                    self.reporter.warn_once(warning)
            if outcome.end == "refused" and not self.tally.has_worked:
                # Nothing has worked yet, so it is what all trials share that cannot work.
                raise UsageError(
                    f"trial {outcome.number}: {outcome.message}, and nothing has worked so far; "
                    "the search stops here"
                    + (f":\n{outcome.log_tail}" if outcome.log_tail else "")
                )
            num_failed = 0
            if outcome.end in FAILED:
                num_failed = self.retry.call(count_failed, study)
            max_failed = self.policy.failures_of(self.tally.num_expected)
            self._failures.add(outcome, num_failed - self.num_failed_before, max_failed)


def tally_of(
    spec: StudySpec, trials: Sequence[FrozenTrial], budget: SharedBudget | None = None
) -> Tally:
    """Return where a study stands that has these trials, in whatever states."""
    finished = [trial for trial in trials if trial.state in COUNTED]
    direction = spec.objective.direction
    best = best_of(finished, direction)
    value = None if best is None else score(best, direction)
    return Tally(
        spec.num_trials,
        len(finished),
        None if best is None or value is None else (value, best.number),
        direction,
        [trial.number for trial in trials if is_paused(trial)],
        budget,
        spec.objective.key,
    )
