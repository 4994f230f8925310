"""Runs one trial, from the claim to the record: sample, launch, watch, classify, tell."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import optuna

from hpo.errors import LauncherError, SlotError
from hpo.keys import MODEL, PROVENANCE
from hpo.launchers import Launcher, Slot, WorkerJob
from hpo.launchers.log import shortened
from hpo.plan.samplers import make_sampler, sampler_errors_named
from hpo.plan.shared_ranges import SharedRanges
from hpo.plan.spec import StudySpec
from hpo.records import ModelRecord, RunRecord
from hpo.results.best_model import Results
from hpo.results.metrics import read_classes, read_figures
from hpo.results.model_folder import Candidate
from hpo.results.provenance import Stopwatch, describe_run
from hpo.run.attempt import AttemptFolder, prepare_attempt
from hpo.run.disk import DiskFullError, FolderGoneError, is_full, is_full_error
from hpo.run.failures import FailurePolicy
from hpo.run.outcome import (
    LOST,
    STATES,
    AttemptResult,
    End,
    Outcome,
    cut_off,
    failed_by,
)
from hpo.run.pages import DashboardPages
from hpo.run.pausing import Pausing
from hpo.run.progress import Reporter
from hpo.run.tell import Job, Teller
from hpo.run.tracking import Tracking
from hpo.run.trial_config import TrialConfig, make_trial_config
from hpo.run.watch import Watch
from hpo.store.claim import Lease
from hpo.store.database import DatabaseRetry
from hpo.store.lease import LeaseManager
from hpo.store.renewer import Renewer
from hpo.store.sampling import UnfitValuesError, draw
from hpo.store.study import COUNTED
from trainer.errors import ConfigError, DeviceError
from trainer.rundir import Evaluation


@dataclass(frozen=True, kw_only=True)
class TrialRunner:
    """What every trial of one slot needs."""

    spec: StudySpec
    policy: FailurePolicy
    study: optuna.Study
    launcher: Launcher
    slot: Slot
    num_procs: int
    lease_manager: LeaseManager
    renewer: Renewer
    retry: DatabaseRetry
    results: Results
    pages: DashboardPages
    tracking: Tracking
    reporter: Reporter
    stopping: threading.Event
    pausing: Pausing | None = None

    @cached_property
    def _shared(self) -> SharedRanges:
        return SharedRanges.seen_by(self.spec)

    def run(self, lease: Lease) -> Outcome:
        """Run the trial that was claimed; in the end it is told to the study, or given back."""
        clock = Stopwatch(lease.spent)
        self.renewer.hold(lease)
        try:
            try:
                with sampler_errors_named(self.spec.sampler):
                    trial, chosen = self.retry.call(
                        draw,
                        self.study,
                        lease.trial_id,
                        partial(make_sampler, self.spec),
                        partial(self.spec.space.suggest, sample=self._shared.sample),
                        self.spec.space.check,
                        None if self.pausing is None else self.pausing.first_rung,
                        self._shared,
                    )
            except UnfitValuesError as error:
                job = Job(error.number, {}, clock)
                end: End = "unfit" if error.is_enqueued else "failed"
                return self._teller.finish(job, lease, AttemptResult(end, message=str(error)))
            job = Job(trial.number, chosen, clock, trial.params)
            if not self.lease_manager.set_params(lease, trial):
                return self._teller.finish(job, lease, AttemptResult("lost", message=LOST))
            if lease.ends:
                return self._end(job, lease, trial.intermediate_values)
            self.reporter.trial_started(
                trial.number, self.slot.index, chosen, goes_on=lease.was_paused
            )
            return self._run_attempts(job, lease)
        except BaseException:
            with contextlib.suppress(Exception):
                self.lease_manager.give_back(lease, waits=False)
            raise
        finally:
            self.renewer.release(lease)

    @property
    def _teller(self) -> Teller:
        return Teller(
            spec=self.spec,
            study=self.study,
            lease_manager=self.lease_manager,
            retry=self.retry,
            results=self.results,
            pages=self.pages,
            tracking=self.tracking,
            reporter=self.reporter,
            stopping=self.stopping,
            pausing=self.pausing,
        )

    def _run_attempts(self, job: Job, lease: Lease) -> Outcome:
        """Start the worker, and again where it crashed, until the trial has an end."""
        may_resume = True
        if self.policy.is_deadly(lease.num_deaths):
            message = f"{lease.num_deaths} drivers in a row died with this trial"
            attempt_result = AttemptResult(
                "failed", message=message, why="drivers died with the trial"
            )
            return self._teller.finish(job, lease, attempt_result)
        while True:
            attempt_result, was_resumed = self._attempt(job, lease, resume=may_resume)
            # A worker that cannot resume from the state may work without it.
            is_bad_state = attempt_result.may_be_state and was_resumed
            is_retried = self.policy.is_retried(attempt_result, lease.num_crashes)
            if self.stopping.is_set() or not (is_bad_state or is_retried):
                return self._teller.finish(job, lease, attempt_result)
            may_resume = not is_bad_state
            again = self.lease_manager.start_again(lease, crashed=is_retried)
            if again is None:
                return self._teller.finish(
                    job, lease, replace(attempt_result, end="lost", message=LOST)
                )
            self.reporter.attempt_ended(job.number, lease.attempt, attempt_result)
            lease = again

    def _end(self, job: Job, lease: Lease, curve: Mapping[int, float]) -> Outcome:
        """End a trial with what it has reached, and its model if that is here; nothing runs."""
        attempt_result = cut_off(curve, self.spec.num_epochs)
        try:
            config = make_trial_config(self.spec, self.launcher, job.number, job.chosen)
            folder = self._folder(job, lease, config, resume=True)
            if folder.evaluated:  # more than its driver had time to report, it may be
                self.retry.call(self.lease_manager.report, lease, folder.evaluated)
                attempt_result = cut_off({**curve, **folder.evaluated}, self.spec.num_epochs)
                self.tracking.attempt_began(
                    job.number, job.chosen, lease.attempt, folder.run_dir, folder.evaluated
                )
            direction = self.spec.objective.direction
            if direction.best_epoch(attempt_result.curve) in folder.evaluated:
                self._offer(job, lease, attempt_result, folder.run_dir, config)
        except ConfigError:  # an earlier release sampled it
            pass
        except OSError as error:
            if is_full_error(error):
                raise DiskFullError(self.spec.folders.study) from None
            self.reporter.warn_once(f"trial {job.number}: {error.filename}: {error.strerror}")
        return self._teller.finish(job, lease, attempt_result)

    def _folder(
        self, job: Job, lease: Lease, config: TrialConfig, *, resume: bool
    ) -> AttemptFolder:
        folder = prepare_attempt(
            self.spec.folders,
            job.number,
            lease.attempt,
            config.written,
            resume=resume,
            stopping=self.stopping,
            moves=lease.was_paused,
        )
        return folder.read_by(self.spec.objective, config.asked)

    def _attempt(self, job: Job, lease: Lease, *, resume: bool) -> tuple[AttemptResult, bool]:
        """Run the worker once; return what became of it, and whether it went on from a state.

        Raises:
            DiskFullError: nobody can write to the run folders any more.
            FolderGoneError: somebody has removed them.
            LauncherError: no worker can be started.
        """
        was_resumed = False
        if not self.spec.has_inputs():
            raise FolderGoneError(self.spec.folders.study)
        try:
            pause_after = None if self.pausing is None else self.pausing.end_of(lease)
            config = make_trial_config(
                self.spec, self.launcher, job.number, job.chosen, pause_after=pause_after
            )
            folder = self._folder(job, lease, config, resume=resume)
            was_resumed = folder.resumed is not None
            # Recorded now, else nobody knows where the trial ran if this driver dies.
            run = {PROVENANCE: self._provenance(lease, config, folder.run_dir)}
            if not self.lease_manager.begin(lease, keep=folder.evaluated, attributes=run):
                return AttemptResult("lost", message=LOST), was_resumed
            attempt_result = self._watch(
                job, lease, folder, keeps_state=config.keeps_state, pause_after=pause_after
            )
            if attempt_result.curve and STATES.get(attempt_result.end) in COUNTED:
                self._offer(job, lease, attempt_result, folder.run_dir, config)
        except ConfigError as error:
            return failed_by(error), was_resumed
        except (OSError, LauncherError) as error:
            if is_full_error(error) or is_full_error(error.__cause__):
                raise DiskFullError(self.spec.folders.study) from None
            if isinstance(error, LauncherError):
                raise
            return failed_by(error), was_resumed
        is_whole = self.spec.num_epochs in attempt_result.curve
        ended_early = attempt_result.end in ("complete", "failed", "refused") and not is_whole
        if ended_early and not folder.run_dir.exists():
            raise FolderGoneError(self.spec.folders.study)
        if attempt_result.is_crash and is_full(folder.run_dir, attempt_result.log_tail):
            raise DiskFullError(self.spec.folders.study)
        return attempt_result, was_resumed

    def _watch(
        self,
        job: Job,
        lease: Lease,
        folder: AttemptFolder,
        *,
        keeps_state: bool,
        pause_after: int | None,
    ) -> AttemptResult:
        number, slot, timeout_s = job.number, self.slot, self.policy.trial_timeout_s

        tracked = self.tracking.attempt_began(
            number, job.chosen, lease.attempt, folder.run_dir, folder.evaluated
        )

        def tell_epoch(entry: Evaluation, best: float) -> None:
            job.clock.report()
            self.reporter.epoch_done(number, slot.index, entry.epoch, best)
            tracked.epoch_ended(entry)

        handle = self.launcher.start(
            WorkerJob(run_dir=folder.run_dir, slot=slot, num_procs=self.num_procs)
        )
        job.clock.launch()
        attempt_result = Watch(
            study=self.study,
            lease=lease,
            handle=handle,
            log=folder.log,
            inherited=folder.evaluated,
            num_epochs=self.spec.num_epochs,
            lease_manager=self.lease_manager,
            renewer=self.renewer,
            retry=self.retry,
            stopping=self.stopping,
            tell_epoch=tell_epoch,
            pruner=self.spec.pruner,
            keeps_state=keeps_state,
            pause_after=pause_after,
            on_gpu=bool(slot.gpu_uuids),
            deadline=None
            if timeout_s is None
            else job.clock.claimed + timeout_s - lease.spent.get("total", 0.0),
        ).follow()
        # An engine that takes `device` says by its exit code that it is the GPU's fault.
        if (
            attempt_result.exit_code == DeviceError.exit_code
            and "device" in self.launcher.capabilities()
        ):
            raise SlotError(shortened(handle.log_tail(1).rpartition("error: ")[2]))
        return attempt_result

    def _provenance(self, lease: Lease, config: TrialConfig, run_dir: Path) -> RunRecord:
        described = describe_run(
            config=config.recorded,
            network_file=config.network_file,
            run_dir=run_dir,
            attempt=lease.attempt,
            launcher=self.launcher,
            slot=self.slot,
            data=self.spec.describe_data(),
        )
        return {**described, "lease_s": self.lease_manager.lease_s}

    def _offer(
        self,
        job: Job,
        lease: Lease,
        attempt_result: AttemptResult,
        run_dir: Path,
        config: TrialConfig,
    ) -> None:
        curve = attempt_result.curve
        epoch = self.spec.objective.direction.best_epoch(curve)
        assert epoch is not None

        def announce(model: ModelRecord) -> bool:
            # False: somebody else has the trial, and with it the right to the best model.
            return self.lease_manager.annotate(lease, {MODEL: model})

        warning = self.retry.call(
            self.results.offer,
            Candidate(
                number=job.number,
                attempt=lease.attempt,
                score=curve[epoch],
                epoch=epoch,
                figures=read_figures(run_dir, self.spec.num_epochs, epoch),
                classes=read_classes(run_dir, self.spec.num_epochs, epoch),
                config=config.on_host,
                params=job.chosen,
                known_extensions=self.launcher.capabilities(),
            ),
            self.study,
            announce,
        )
        if warning:
            self.reporter.warn_once(warning)
