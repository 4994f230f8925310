"""Shows how a search goes: a live display on a terminal, plain lines in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from hpo.console import tell
from hpo.store.budget import is_open_ended
from hpo.wording import SHORT_NAME, describe_left, describe_values, format_score, format_seconds
from trainer.figures import DICE_DATASET
from trainer.wording import counted

if TYPE_CHECKING:
    from hpo.run.outcome import AttemptResult, Outcome
    from hpo.store.shared_budget import SharedBudget
    from trainer.direction import Direction

UNFINISHED = ("given back", "lost")  # and are not paused
WIDE = 100  # columns of a terminal that has room for long bars
SILENCE_S = 120  # a log of trials that take hours shows that they go on


class Reporter(Protocol):
    """What a search tells of itself; safe to call from several threads."""

    def trial_started(
        self, number: int, slot: int, chosen: Mapping[str, Any], *, goes_on: bool = False
    ) -> None:
        """Say that a trial's worker is starting in a slot, anew or after a pause."""
        ...

    def epoch_done(self, number: int, slot: int, epoch: int, best: float) -> None:
        """Say that a trial has evaluated an epoch; `best` is its score so far."""
        ...

    def attempt_ended(self, number: int, attempt: int, attempt_result: AttemptResult) -> None:
        """Say that an attempt at a trial failed, and that the next one starts."""
        ...

    def trial_ended(self, slot: int, outcome: Outcome, tally: Tally) -> None:
        """Say how a trial ended and where the search stands."""
        ...

    def warn_once(self, text: str) -> None:
        """Give a warning, the same one only once."""
        ...

    def warn(self, text: str) -> None:
        """Give a warning."""
        ...

    def close(self) -> None:
        """End the display."""
        ...


class Tally:
    """Where a search stands: how many are done, what is best, how long it will take."""

    def __init__(
        self,
        num_trials: int,
        num_finished: int,
        best: tuple[float, int] | None,
        direction: Direction,
        paused: Collection[int] = (),
        budget: SharedBudget | None = None,
        objective: str = DICE_DATASET,
    ) -> None:
        self.num_trials = num_trials
        self._objective = objective
        self.num_finished = num_finished
        self.best = best
        self._direction = direction
        self._started = time.monotonic()
        self._finished_here = 0
        self._paused = set(paused)  # those that were when this driver began, and its own
        self._budget = budget

    def settle(self, num_trials: int, num_finished: int, *, is_done: bool) -> None:
        """Take what the database says: other drivers end trials, and ask for more."""
        self.num_trials = num_trials
        if is_done:
            self.num_finished = num_finished
            self._paused.clear()

    def add(self, outcome: Outcome) -> None:
        """Count a trial that ended, or is paused."""
        self._paused.discard(outcome.number)
        if outcome.end == "paused":
            self._paused.add(outcome.number)
        if outcome.counts:
            self.num_finished += 1
            self._finished_here += 1
        if not outcome.counts or outcome.score is None:
            return
        rank = self._direction.rank
        if self.best is None or rank(outcome.score, outcome.number) > rank(*self.best):
            self.best = (outcome.score, outcome.number)

    @property
    def is_open_ended(self) -> bool:
        """Whether there are as many trials as fit into the study's time."""
        return is_open_ended(self.num_trials)

    @property
    def num_expected(self) -> int:
        """The trials that are asked for, or those that are known where time is the limit."""
        if not self.is_open_ended:
            return self.num_trials
        return self.num_finished + len(self._paused)

    @property
    def shares(self) -> tuple[float, float | None]:
        """How much of the whole is done: trials, or seconds where time is the limit."""
        budget = None if self._budget is None else self._budget.now
        if budget is None or not self.is_open_ended:
            return self.num_finished, self.num_trials
        return budget.total_s - max(0.0, budget.left_s), budget.total_s

    @property
    def has_worked(self) -> bool:
        """Whether a trial has come to something."""
        return bool(self.num_finished or self._paused)

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the rate since this driver's start; None before the first trial.

        None, too, while trials are paused: how many of them go on is not known.
        """
        if not self._finished_here or self._paused:
            return None
        rate = self._finished_here / (time.monotonic() - self._started)
        return max(0, self.num_trials - self.num_finished) / rate

    def describe(self) -> str:
        """Return `12/50 trials, best 0.8412 (trial 7), about 3 min left`."""
        text = f"{self.num_finished}/{self.num_trials} trials"
        if self.is_open_ended:
            text = counted(self.num_finished, "trial")
        if self._paused:
            text += f", {len(self._paused)} paused"
        if self.best is not None:
            text += f", best {format_score(self.best[0], self._objective)} (trial {self.best[1]})"
        budget = None if self._budget is None else self._budget.now
        if budget is not None:
            text += f", {describe_left(budget.hours, budget.left_s, self.seconds_left)}"
        elif self.seconds_left:
            text += f", about {format_seconds(self.seconds_left)} left"
        return text


def optuna_means(number: int, value: float, objective: str, *, is_foreign: bool) -> str:
    """Return what Optuna calls the best trial, where that is another one."""
    text = f"trial {number} with {format_score(value, objective)}"
    if is_foreign:
        return f"{text}, which was not made by rml-optimize"
    return f"{text}, of complete trials only"


def describe_outcome(outcome: Outcome, score_name: str) -> str:
    """Return one line on a finished trial."""
    text = f"trial {outcome.number:3d} {outcome.end:<9}"
    if outcome.end in UNFINISHED:  # its score is none of the study's
        text += f" after {outcome.num_epochs} epoch{'s' * (outcome.num_epochs != 1)}"
    elif outcome.score is not None:
        text += f" {score_name} {format_score(outcome.score, score_name)}"
        text += f" (epoch {outcome.epoch} of {outcome.num_epochs})"
    text += f" in {format_seconds(outcome.seconds)}"
    return f"{text}: {outcome.message}" if outcome.message else text


class PlainReporter:
    """One line for each trial's start and end, with the time of day: fit for a log file.

    A slot that has been silent for two minutes says which epoch it has reached.
    """

    def __init__(self, console: Console, score_name: str = SHORT_NAME) -> None:
        self._console = console
        self._score_name = score_name
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self._last_line: dict[int, float] = {}  # of each slot

    def trial_started(
        self, number: int, slot: int, chosen: Mapping[str, Any], *, goes_on: bool = False
    ) -> None:
        """Print what was sampled."""
        self._last_line[slot] = time.monotonic()
        what = "goes on" if goes_on else f"started: {describe_values(chosen)}"
        self._line(f"trial {number:3d} {what}")

    def epoch_done(self, number: int, slot: int, epoch: int, best: float) -> None:
        """Print it where the slot has been silent."""
        now = time.monotonic()
        if now - self._last_line.get(slot, now) >= SILENCE_S:
            self._last_line[slot] = now
            self._line(f"trial {number:3d} epoch {epoch}, {self._scored(best)} so far")

    def attempt_ended(self, number: int, attempt: int, attempt_result: AttemptResult) -> None:
        """Print why."""
        self._line(
            f"trial {number:3d} attempt {attempt} failed: {attempt_result.message}; once more"
        )

    def trial_ended(self, slot: int, outcome: Outcome, tally: Tally) -> None:
        """Print the result and where the search stands."""
        self._line(f"{describe_outcome(outcome, self._score_name)} | {tally.describe()}")
        for line in outcome.log_tail.splitlines():
            self._line(f"    | {line}")

    def warn_once(self, text: str) -> None:
        """Print a warning."""
        if text not in self._warned:
            self._warned.add(text)
            self.warn(text)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._line(f"warning: {text}")

    def close(self) -> None:
        """Nothing to end."""

    def _scored(self, value: float) -> str:
        return f"{self._score_name} {format_score(value, self._score_name)}"

    def _line(self, text: str) -> None:
        with self._lock:
            stamp = time.strftime("%H:%M:%S")
            tell(self._console, f"{stamp} {text}", indent=" " * (len(stamp) + 1))


class LiveReporter(PlainReporter):
    """The same lines, and below them a bar for the search and one for each running trial."""

    def __init__(
        self,
        console: Console,
        *,
        num_slots: int,
        num_epochs: int,
        tally: Tally,
        score_name: str = SHORT_NAME,
    ) -> None:
        super().__init__(console, score_name)
        self._num_epochs = num_epochs
        self._values: dict[int, str] = {}  # of each running trial
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24 if console.width >= WIDE else 10),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=False)),
            console=console,
        )
        self._tally = tally
        self._search = self._progress.add_task("search")
        self._show()
        self._slots: list[TaskID] = [
            self._progress.add_task(f"slot {index}", total=num_epochs, note="", visible=False)
            for index in range(num_slots)
        ]
        self._progress.start()

    def trial_started(
        self, number: int, slot: int, chosen: Mapping[str, Any], *, goes_on: bool = False
    ) -> None:
        """Show the trial in its slot."""
        self._values[number] = describe_values(chosen)
        self._progress.update(
            self._slots[slot],
            description=f"trial {number}",
            completed=0,
            visible=True,
            note=describe_values(chosen),
        )

    def epoch_done(self, number: int, slot: int, epoch: int, best: float) -> None:
        """Move the slot's bar."""
        self._progress.update(
            self._slots[slot],
            completed=epoch,
            note=f"epoch {epoch}/{self._num_epochs}, {self._scored(best)}",
        )
        self._show()

    def trial_ended(self, slot: int, outcome: Outcome, tally: Tally) -> None:
        """Print the result with the trial's values above the bars."""
        values = self._values.pop(outcome.number, "")
        self._line(
            describe_outcome(outcome, self._score_name) + (f" | {values}" if values else "")
        )
        for line in outcome.log_tail.splitlines():
            self._line(f"    | {line}")
        self._progress.update(self._slots[slot], visible=False)
        self._show()

    def _show(self) -> None:
        """Say where the search stands: with time for a limit, that moves on by itself."""
        done, total = self._tally.shares
        note = self._tally.describe()
        self._progress.update(self._search, total=total, completed=done, note=note)

    def close(self) -> None:
        """Remove the bars."""
        self._progress.stop()


def make_reporter(
    console: Console,
    *,
    num_slots: int,
    num_epochs: int,
    tally: Tally,
    score_name: str = SHORT_NAME,
) -> PlainReporter:
    """Return the live display on a terminal, plain lines elsewhere."""
    if console.is_terminal:
        return LiveReporter(
            console,
            num_slots=num_slots,
            num_epochs=num_epochs,
            tally=tally,
            score_name=score_name,
        )
    return PlainReporter(console, score_name)
