"""Tells trackers of a search, each in a thread of its own: no trial waits or fails for one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.objective import Objective
from hpo.records import end_of
from hpo.results.metrics import all_figures
from hpo.run.final_test import TestScore
from hpo.run.outcome import STATES, Outcome
from hpo.store.database import DatabaseRetry
from hpo.store.study import score
from hpo.trackers import Metrics, SearchEnd, State, TrackedTrial, Tracker, TrialEnd
from trainer.bounded import finite, whole
from trainer.direction import Direction
from trainer.plugins import describe
from trainer.rundir import METRICS, Evaluation, MetricsReader

MAX_WAITING = 10_000  # calls; a tracker that is so far behind stands still
PATIENCE_S, IMPATIENCE_S = 20.0, 2.0  # at the end; where it was stopped there may be seconds left

Warn = Callable[[str], None]
Call = Callable[[Tracker], object]

_STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class Tracking:
    """The trackers of one driver, which are told of the trials that it runs."""

    def __init__(
        self,
        trackers: Mapping[str, Tracker],
        *,
        objective: Objective,
        num_epochs: int,
        warn: Warn,
    ) -> None:
        """Begin; `warn` takes a line."""
        self.objective, self.num_epochs = objective, num_epochs
        self._followers = [_Follower(name, each, warn) for name, each in trackers.items()]
        self._lock = threading.Lock()  # slots end their trials at any time
        self._begun: set[int] = set()
        self._paused: dict[int, tuple[int, TrialEnd]] = {}  # number -> attempt, end
        self.tell(lambda tracker: tracker.search_began())

    def tell(self, call: Call) -> None:
        """Have each tracker called in its thread."""
        for follower in self._followers:
            follower.tell(call)

    def attempt_began(
        self,
        number: int,
        values: Mapping[str, Any],
        attempt: int,
        run_dir: Path,
        scores: Mapping[int, float],
    ) -> TrackedAttempt:
        """Tell of a trial whose worker starts, and of the scores that it goes on from."""
        with self._lock:
            self._begun.add(number)
            self._paused.pop(number, None)
        trial = TrackedTrial(
            number=number, values=dict(values), attempt=attempt, run_dir=run_dir, earlier={}
        )
        return TrackedAttempt(self, trial, scores)

    def trial_ended(self, outcome: Outcome, attempt: int, run_dir: Path) -> None:
        """Tell of the end of a trial, if its worker has ever started here."""
        ended = STATES.get(outcome.end)
        state: Any = outcome.end if ended is None else _STATES[ended]
        end = TrialEnd(
            state=state,
            how=outcome.end,
            score=outcome.score,
            epoch=outcome.epoch,
            seconds=outcome.seconds,
            message=outcome.message,
            run_dir=run_dir,
        )
        with self._lock:
            if outcome.number not in self._begun:
                return
            if state == "paused":
                self._paused[outcome.number] = (attempt, end)
        self.tell(lambda tracker: tracker.trial_ended(outcome.number, end))

    def settle(self, study: optuna.Study, retry: DatabaseRetry) -> None:
        """Tell of trials that were paused here and have ended since without going on."""
        if not self._paused or not self._followers:
            return
        for trial in retry.call(study.get_trials, deepcopy=False):
            attempt, end = self._paused.get(trial.number, (None, None))
            is_same = end_of(trial.user_attrs).get("attempt") == attempt
            if end is not None and trial.state == TrialState.PRUNED and is_same:
                self._tell_pruned(trial.number, replace(end, state="pruned", how="pruned"))

    def _tell_pruned(self, number: int, end: TrialEnd) -> None:
        self.tell(lambda tracker: tracker.trial_ended(number, end))

    def close(self, end: SearchEnd, *, is_stopped: bool) -> None:
        """Tell of the end, and wait a moment for what the trackers have still to do."""
        self.tell(lambda tracker: tracker.search_ended(end))
        deadline = time.monotonic() + (IMPATIENCE_S if is_stopped else PATIENCE_S)
        for follower in self._followers:
            follower.close(deadline)


def how_it_ended(
    best: FrozenTrial | None,
    tested: TestScore | None,
    failure: Exception | None,
    direction: Direction,
    *,
    is_stopped: bool,
) -> SearchEnd:
    """Return what trackers are told of the end of a search."""
    if failure is not None or is_stopped:
        return SearchEnd(state="stopped" if is_stopped else "failed")
    test_score = None
    if tested is not None:
        test_score = tested.dice_dataset if tested.objective is None else tested.score
    return SearchEnd(
        state="finished",
        best_trial=None if best is None else best.number,
        best_score=None if best is None else score(best, direction),
        test_score=test_score,
    )


class TrackedAttempt:
    """One attempt at a trial, whose epochs are told once each."""

    def __init__(
        self, tracking: Tracking, trial: TrackedTrial, scores: Mapping[int, float]
    ) -> None:
        self._tracking, self._trial = tracking, trial
        self._metrics = _EpochMetrics(trial.run_dir, tracking.objective, tracking.num_epochs)
        self._scores: dict[int, float] = {}
        self._begin(scores)

    def epoch_ended(self, entry: Evaluation) -> None:
        """Tell of an epoch.

        A worker that goes on replaces its log, which is read from its first epoch again. What says
        the same as before is not told again; what says something else was trained again.
        """
        if self._scores.get(entry.epoch) == entry.accuracy:
            return
        if any(epoch >= entry.epoch for epoch in self._scores):
            self._begin({e: score for e, score in self._scores.items() if e < entry.epoch})
        self._scores[entry.epoch] = entry.accuracy
        number, metrics = self._trial.number, self._metrics
        self._tracking.tell(
            lambda tracker: tracker.epoch_ended(
                number, entry.epoch, metrics.of(entry.epoch, entry.accuracy, entry.loss)
            )
        )

    def _begin(self, scores: Mapping[int, float]) -> None:
        self._scores = dict(sorted(scores.items()))
        trial, metrics, known = self._trial, self._metrics, dict(self._scores)

        def begin(tracker: Tracker) -> None:
            earlier = {epoch: metrics.of(epoch, score) for epoch, score in known.items()}
            tracker.trial_began(replace(trial, earlier=earlier))

        self._tracking.tell(begin)


class _EpochMetrics:
    """The metrics of an attempt's epochs, read by the trackers' threads."""

    def __init__(self, run_dir: Path, objective: Objective, num_epochs: int) -> None:
        self._reader = MetricsReader(run_dir / METRICS, num_epochs=num_epochs)
        self._objective, self._num_epochs = objective, num_epochs
        self._lock = threading.Lock()
        self._entries: dict[int, Mapping[str, Any]] = {}

    def of(self, epoch: int, score: float, loss: float | None = None) -> Metrics:
        """Return what is known of an epoch, which of another engine is score and loss."""
        with self._lock:
            self._read()
            entry = self._entries.get(epoch, {})
        loss = finite(loss)
        found = {} if loss is None else {"loss": loss}
        return {**found, **all_figures(entry), self._objective.key: score}

    def _read(self) -> None:
        """Read on: our worker writes an epoch's line before that of its test log."""
        for entry in self._reader.read_new():
            number = whole(entry.get("epoch"), 0, self._num_epochs)
            if number is not None:
                self._entries[number] = entry


class _Follower:
    """One tracker with its thread, until it fails or falls behind."""

    def __init__(self, name: str, tracker: Tracker, warn: Warn) -> None:
        self._name, self._tracker, self._warn = name, tracker, warn
        self._calls: queue.Queue[Call | None] = queue.Queue(MAX_WAITING)
        self._is_out = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def tell(self, call: Call) -> None:
        """Have it called; a call that finds no room leaves it out."""
        if not self._is_out.is_set():
            try:
                self._calls.put_nowait(call)
            except queue.Full:
                self._leave_out(f"{MAX_WAITING} calls wait for it")

    def close(self, deadline: float) -> None:
        """Wait for it until a time of `time.monotonic()`."""
        if self._is_out.is_set():
            return
        try:
            self._calls.put_nowait(None)
        except queue.Full:
            self._leave_out(f"{MAX_WAITING} calls wait for it")
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive() and not self._is_out.is_set():
            self._leave_out("it did not end in time, and has not taken all that it was told")

    def _work(self) -> None:
        while (call := self._calls.get()) is not None and not self._is_out.is_set():
            try:
                call(self._tracker)
            except BaseException as error:  # noqa: BLE001  # SystemExit, too: nothing ends for it
                self._leave_out(describe(error))

    def _leave_out(self, why: str) -> None:
        if not self._is_out.is_set():
            self._is_out.set()
            self._warn(f"tracker {self._name} is left out from now on: {why}")
