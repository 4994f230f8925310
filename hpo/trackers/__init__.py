"""What follows a search beside its own records: TensorBoard, MLflow, a table of one's own.

A tracker is told of trials and epochs by the driver, so that it works with any worker, also in
containers without network. A plug-in is a subclass of `Tracker`; see docs/trackers.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainer.direction import Direction

Metrics = Mapping[str, float]  # name -> finite number

State = Literal["complete", "pruned", "failed", "paused", "given back", "lost"]


@dataclass(frozen=True, kw_only=True)
class SearchedField:
    """What a config field is sampled from, in all trials together.

    Attributes:
        choices: its values, lists and objects as their JSON text; None of a range.
        low: the lower bound of a range, of several ranges the lowest.
        high: likewise.
        log: it is sampled on a log scale.
    """

    choices: tuple[bool | int | float | str, ...] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class TrackedSearch:
    """What a tracker is made from.

    Attributes:
        study: the study's name.
        study_id: tells it from one of the same name that was deleted; "" in a dry run.
        output: the output folder; write into a folder of your own in it.
        score: the name of what trials are compared by, among the metrics.
        direction: which of two scores is the better one: "maximize", the higher, or "minimize".
        num_trials: that this driver asks for; None for as many as fit into the time.
        num_epochs: of a trial that is trained to its end.
        settings: what the table at the start of a search says, row by row.
        searched: dotted path of a config field -> what it is sampled from.
        config: the other fields of the config, by dotted path.
    """

    study: str
    study_id: str
    output: Path
    score: str
    direction: Direction = Direction.MAXIMIZE
    num_trials: int | None
    num_epochs: int
    settings: Mapping[str, str]
    searched: Mapping[str, SearchedField]
    config: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrackedTrial:
    """A trial whose worker starts, or starts again.

    Attributes:
        values: of the searched fields that it has, by dotted path.
        attempt: 1 for a new trial.
        run_dir: logs and checkpoints of the attempt. An engine that nobody trusts may write them:
            follow no links.
        earlier: epoch -> metrics of what it goes on from; empty if it starts anew.
    """

    number: int
    values: Mapping[str, Any]
    attempt: int
    run_dir: Path
    earlier: Mapping[int, Metrics]


@dataclass(frozen=True, kw_only=True)
class TrialEnd:
    """How a trial ended, or that it waits.

    Attributes:
        state: of "paused", "given back" and "lost" (another driver has it) it may yet go on.
        how: in a word, such as "diverged" or "out of memory".
        score: of its best epoch, None before the first.
        epoch: the best one.
        seconds: of all its attempts.
        message: why, where there is something to say.
        run_dir: as `TrackedTrial` has it.
    """

    state: State
    how: str
    score: float | None
    epoch: int | None
    seconds: float
    message: str
    run_dir: Path

    @property
    def is_final(self) -> bool:
        """Whether nothing more comes of the trial."""
        return self.state in ("complete", "pruned", "failed")


@dataclass(frozen=True, kw_only=True)
class SearchEnd:
    """How one call of `rml-optimize` ended; the study may go on.

    Attributes:
        best_trial: of the study, None where none has a score.
        test_score: of its model on the test images, where this driver knows it.
    """

    state: Literal["finished", "stopped", "failed"]
    best_trial: int | None = None
    best_score: float | None = None
    test_score: float | None = None


class Tracker:
    """What follows a search; a subclass overrides the calls that it needs.

    It is made before the first trial, and writes and connects to nothing until `search_began`:
    what is raised here is refused, what is raised later leaves the tracker out, with a warning.
    All further calls come from one thread of its own, one after the other, so it may take its
    time: no trial waits for it.

    Attributes:
        look: how to look at what it writes, for the table at the start of a search.
    """

    look: str = ""

    def __init__(self, search: TrackedSearch) -> None:
        """Take the search; `self.search` has it."""
        self.search = search

    def search_began(self) -> None:
        """Begin, before the first trial of this driver; others may be running already."""

    def trial_began(self, trial: TrackedTrial) -> None:
        """Begin a trial, or go on with it.

        It comes again for a trial that starts again, or goes on: in this call of the program or in
        another, on this host or on another. `trial.earlier` is then what holds of it, and what was
        told of later epochs is void.
        """

    def epoch_ended(self, number: int, epoch: int, metrics: Metrics) -> None:
        """Take the metrics of an epoch, the score among them; epochs ascend, counted from 1."""

    def trial_ended(self, number: int, end: TrialEnd) -> None:
        """End a trial, or let it wait."""

    def search_ended(self, end: SearchEnd) -> None:
        """End; there are seconds for it, two of them where the search was cut short."""
