"""Runs one trial, from the claim to the record: sample, launch, watch, classify, tell."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from hpo.launchers import Handle, Launcher, Slot, WorkerJob
from hpo.lease import Lease, LeaseOffice, Renewer
from hpo.models import MODEL
from hpo.progress import Reporter
from hpo.provenance import END, PROVENANCE, Stopwatch, describe_end, describe_run
from hpo.results import Candidate, Results
from hpo.space import build_config, without_extensions
from hpo.spec import StudySpec
from hpo.storage import derived_seed, make_sampler
from trainer import rundir
from trainer.config import parse_config
from trainer.errors import ConfigError, DivergedError, OutOfMemoryError, UserError
from trainer.keypath import set_path

POLL_INTERVAL_S = 0.05
STOP_GRACE_S = 0.5  # a pruned trial's worker is gone within a second
LOG_TAIL_LINES = 12

End = Literal[
    "complete", "pruned", "diverged", "out of memory", "failed", "refused", "given back", "lost"
]


STATES: dict[End, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,
    "out of memory": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "refused": TrialState.FAIL,  # the worker said that config or data cannot work
}


COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
LOST = "another driver has taken the trial over"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended."""

    number: int
    end: End
    score: float | None = None
    epoch: int | None = None
    num_epochs: int = 0
    seconds: float = 0.0
    message: str = ""
    log_tail: str = ""

    @property
    def counts(self) -> bool:
        """Whether the trial is one of the N that were asked for."""
        return STATES.get(self.end) in COUNTED


@dataclass(frozen=True, kw_only=True)
class TrialRunner:
    """What every trial of one slot needs."""

    spec: StudySpec
    study: optuna.Study
    launcher: Launcher
    slot: Slot
    num_procs: int
    office: LeaseOffice
    renewer: Renewer
    results: Results
    reporter: Reporter
    stopping: threading.Event

    def run(self, lease: Lease) -> Outcome:
        """Run the trial that was claimed; every way out leaves the lease told or given back."""
        clock = Stopwatch()
        self.renewer.hold(lease)
        try:
            trial = self._open(lease)
            chosen = self.spec.space.suggest(trial)
            try:
                config = self._config(trial.number, chosen)
            except ConfigError as error:
                # These values don't go together; others may.
                return self._finish(lease, trial, _Watched("failed", message=str(error)), clock)
            run_dir = self._prepare(trial.number, lease.attempt, config)
            self._record_start(trial, lease, run_dir, config, chosen)
            self.reporter.trial_started(trial.number, self.slot.index, chosen)
            handle = self.launcher.start(
                WorkerJob(run_dir=run_dir, slot=self.slot, num_procs=self.num_procs)
            )
            clock.launch()
            try:
                watched = self._watch(trial, lease, handle, run_dir, clock)
            finally:
                handle.stop(STOP_GRACE_S)
            if watched.score is not None and STATES.get(watched.end) in COUNTED:
                self._offer(lease, trial, watched, run_dir, config, chosen)
            outcome = self._finish(lease, trial, watched, clock)
            # The best model is stored; the rest would fill the disk at 130 MB a trial.
            shutil.rmtree(run_dir / rundir.CHECKPOINTS, ignore_errors=True)
            return outcome
        except BaseException:
            with contextlib.suppress(Exception):
                self.office.give_back(lease)
            raise
        finally:
            self.renewer.release(lease)

    def _open(self, lease: Lease) -> optuna.Trial:
        storage = self.study._storage
        # Optuna's cache has not seen the row yet: the claim wrote it on a connection of its own.
        storage.get_all_trials(self.study._study_id, deepcopy=False)
        number = storage.get_trial_number_from_id(lease.trial_id)
        self.study.sampler = make_sampler(self.spec, number)
        return optuna.Trial(self.study, lease.trial_id)

    def _config(self, number: int, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Return the trial's `neural_network` object as the worker will read it.

        Raises:
            ConfigError: the sampled values don't go together.
        """
        network = self.spec.networks[self.spec.network_of(chosen)]
        config = build_config(self.spec.base, {**network.settings, **chosen})
        config["seed"] = derived_seed(self.spec.seed, number, "training")
        config["layers"] = self.spec.input_path(self.launcher, network.file)
        if self.spec.weights is not None:
            load = self.spec.input_path(self.launcher, self.spec.weights)
            set_path(config, "checkpoints.load", load)
        for key, path in self.spec.worker_paths(self.launcher).items():
            set_path(config, key, path)
        parse_config({"neural_network": config}, f"trial {number}")
        return config

    def _prepare(self, number: int, attempt: int, config: dict[str, Any]) -> Path:
        """Make the run folder with its config; an older one of that name is kept aside."""
        run_dir = self.spec.folders.attempt(number, attempt)
        if run_dir.exists():
            run_dir.rename(run_dir.with_name(f"{run_dir.name}.{time.time_ns()}.old"))
        run_dir.mkdir(parents=True)
        written = without_extensions(config, known=self.launcher.capabilities())
        text = json.dumps({"neural_network": written}, indent=2)
        rundir.write_atomic(run_dir / rundir.CONFIG, text)
        return run_dir

    def _watch(
        self, trial: optuna.Trial, lease: Lease, handle: Handle, run_dir: Path, clock: Stopwatch
    ) -> _Watched:
        """Follow the worker's test log until it ends, is pruned, or has to stop."""
        reader = rundir.TestLogReader(run_dir / rundir.TEST_LOG)
        curve: dict[int, float] = {}
        while True:
            code = handle.poll()  # before reading: what was written before the end is read
            for evaluation in reader.read_new():
                if not self._is_new(evaluation, curve):
                    continue
                if not self.office.renew(lease):  # a report of an old owner would be accepted
                    return _Watched("lost", curve, LOST)
                curve[evaluation.epoch] = evaluation.accuracy
                clock.report()
                trial.report(evaluation.accuracy, evaluation.epoch)
                self.reporter.epoch_done(
                    trial.number, self.slot.index, evaluation.epoch, max(curve.values())
                )
                if code is None and trial.should_prune():
                    handle.stop(STOP_GRACE_S)
                    return _Watched("pruned", curve)
            if self.renewer.is_lost(lease):
                return _Watched("lost", curve, LOST)
            if code is not None:
                return _classify(code, curve, handle)
            if self.stopping.wait(POLL_INTERVAL_S):
                return _Watched("given back", curve)

    def _is_new(self, evaluation: rundir.Evaluation, curve: Mapping[int, float]) -> bool:
        """Whether a line of the log says something: a worker may write what it likes."""
        is_epoch = 0 <= evaluation.epoch <= self.spec.num_epochs
        is_seen = evaluation.epoch in curve
        return is_epoch and not is_seen and math.isfinite(evaluation.accuracy)

    def _record_start(
        self,
        trial: optuna.Trial,
        lease: Lease,
        run_dir: Path,
        config: Mapping[str, Any],
        chosen: Mapping[str, Any],
    ) -> None:
        """Record with what and where the trial runs; else nobody knows if this driver dies."""
        name = self.spec.network_of(chosen)
        provenance = describe_run(
            config={**config, "layers": name},
            network_file=self.spec.networks[name].file,
            run_dir=run_dir,
            attempt=lease.attempt,
            launcher=self.launcher,
            gpu_uuids=self.slot.gpu_uuids,
            data=self.spec.survey.fingerprint,
        )
        trial.set_user_attr(PROVENANCE, provenance)

    def _offer(
        self,
        lease: Lease,
        trial: optuna.Trial,
        watched: _Watched,
        run_dir: Path,
        config: Mapping[str, Any],
        chosen: Mapping[str, Any],
    ) -> None:
        assert watched.score is not None
        assert watched.epoch is not None

        def announce(model: Mapping[str, Any]) -> bool:
            if not self.office.renew(lease):
                return False  # somebody else has the trial, and the right to the best model
            trial.set_user_attr(MODEL, dict(model))
            return True

        host_config: dict[str, Any] = json.loads(json.dumps(config))
        host_config["layers"] = self.spec.network_of(chosen)
        root, test = self.spec.trained.root, self.spec.trained.test
        assert test is not None
        host_config["data"]["test_input_path"] = str(root / test.inputs)
        host_config["data"]["test_target_path"] = str(root / test.targets)
        warning = self.results.offer(
            Candidate(
                number=trial.number,
                attempt=lease.attempt,
                score=watched.score,
                epoch=watched.epoch,
                dice_per_image=read_dice_per_image(run_dir, watched.epoch),
                run_dir=run_dir,
                config=host_config,
                params=chosen,
                known_extensions=self.launcher.capabilities(),
            ),
            self.study,
            announce,
        )
        if warning:
            self.reporter.warn_once(warning)

    def _finish(
        self, lease: Lease, trial: optuna.Trial, watched: _Watched, clock: Stopwatch
    ) -> Outcome:
        """Tell the study, if the trial is still ours."""
        if watched.end == "given back":
            self.office.give_back(lease)
        elif watched.end != "lost" and self.office.renew(lease):
            state = STATES[watched.end]
            values = watched.score if state == TrialState.COMPLETE else None
            # Another owner may have finished it in this very moment: its word counts.
            with contextlib.suppress(UpdateFinishedTrialError, ValueError):
                trial.set_user_attr(END, self._end_of(lease, watched, clock))
                self.study.tell(trial, values, state=state)
                self.results.drop_older_models(self.study, trial.number)
            self.results.write_list_acc(self.study)
        return Outcome(
            number=trial.number,
            end=watched.end,
            score=watched.score,
            epoch=watched.epoch,
            num_epochs=len(watched.curve),
            seconds=clock.total,
            message=watched.message,
            log_tail=watched.log_tail,
        )

    def _end_of(self, lease: Lease, watched: _Watched, clock: Stopwatch) -> dict[str, Any]:
        return describe_end(
            end=watched.end,
            message=watched.message,
            log_tail=watched.log_tail,
            attempt=lease.attempt,
            seconds=clock.seconds(),
        )


@dataclass(frozen=True)
class _Watched:
    """What was seen of a worker."""

    end: End
    curve: Mapping[int, float] = field(default_factory=dict)
    message: str = ""
    log_tail: str = ""

    @property
    def score(self) -> float | None:
        return max(self.curve.values()) if self.curve else None

    @property
    def epoch(self) -> int | None:
        best = self.score
        return min(e for e, value in self.curve.items() if value == best) if self.curve else None


def _classify(code: int, curve: Mapping[int, float], handle: Handle) -> _Watched:
    """Decide from the exit code what a worker's end means (see `trainer.errors`)."""
    tail = handle.log_tail(LOG_TAIL_LINES)
    if code == 0 and curve:
        return _Watched("complete", curve)
    if code == 0:
        return _Watched("failed", curve, "the worker ended without a line in out_test.txt", tail)
    if code == UserError.exit_code:
        return _Watched("refused", curve, "the worker refused its config or data", tail)
    if code == DivergedError.exit_code:
        return _Watched("diverged", curve, "the loss became NaN or infinite")
    if code == OutOfMemoryError.exit_code or handle.oom_killed:
        return _Watched("out of memory", curve, "the batch does not fit the memory", tail)
    return _Watched("failed", curve, f"the worker ended with exit code {code}", tail)


def read_dice_per_image(run_dir: Path, epoch: int) -> float | None:
    """Return the other Dice of an epoch, where the engine reports it."""
    for entry in rundir.read_metrics(run_dir):
        if entry.get("epoch") == epoch and isinstance(entry.get("dice_per_image"), float):
            return float(entry["dice_per_image"])
    return None
