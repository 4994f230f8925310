"""Writes the files that a run leaves: train log, test log, metrics."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TextIO

from trainer.errors import TrainerError
from trainer.metrics.records import Evaluation, Step
from trainer.rundir import (
    METRICS,
    NETWORK_GRAPH,
    OUTFILE,
    PER_IMAGE,
    log_files,
    named_after,
    write_atomic,
)

if TYPE_CHECKING:
    from trainer.metrics.counts import SegmentationCounts
    from trainer.metrics.regression import RegressionCounts


def _drop_later(path: Path, num_epochs: int) -> None:
    """Drop the lines of later epochs, which a killed run did not finish."""
    if path.exists():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and _epoch(line) <= num_epochs]
        write_atomic(path, "".join(kept))


def _epoch(line: str) -> float:
    """Return the epoch of a line of any of the three files; infinity of what is no such line."""
    try:
        if line.startswith("{"):
            return int(json.loads(line)["epoch"])
        numbers = line.split()
        # Only the train log has five numbers, and the time comes first in it.
        return int(numbers[1] if len(numbers) == 5 else numbers[0])
    except (ValueError, TypeError, LookupError, RecursionError):
        return math.inf


def make_folder(folder: Path) -> None:
    """Make a folder for results.

    Raises:
        TrainerError: a file of that name is in the way, or the disk refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainerError(f"{folder}: cannot be made a folder ({error.strerror})") from None


def write_network_graph(outfile: str | None, text: str) -> Path:
    """Write `network.dot` beside the other files, in the current folder if there are none.

    Raises:
        TrainerError: the folder cannot be written.
    """
    path = named_after(outfile or OUTFILE, NETWORK_GRAPH)
    make_folder(path.parent)
    try:
        write_atomic(path, text)
    except OSError as error:
        raise TrainerError(f"{path}: cannot be written ({error.strerror})") from None
    return path


@dataclass(frozen=True)
class EvaluationRecord:
    """What the files say of one evaluation."""

    metrics_line: str
    test_line: str
    counts: SegmentationCounts | RegressionCounts
    own_counts: SegmentationCounts | None

    @classmethod
    def of(
        cls, epoch: int, time_s: float, evaluation: Evaluation | None, extra: Mapping[str, Any]
    ) -> EvaluationRecord | None:
        """Return the record of an evaluation; None where nothing was compared with masks."""
        if evaluation is None or evaluation.scores is None or evaluation.counts is None:
            return None
        entry = {
            "epoch": epoch,
            "time_s": round(time_s, 3),
            "loss": evaluation.loss,
            **extra,
            "at_size": evaluation.at_size,
            **evaluation.scores.as_json(),
        }
        if evaluation.own_scores is not None:
            entry["own_size"] = evaluation.own_scores.as_json()
        loss = 0.0 if evaluation.loss is None else evaluation.loss
        return cls(
            json.dumps(entry) + "\n",
            f"{epoch} {time_s:.3f} {loss:.6g} {evaluation.scores.accuracy:.9f}\n",
            evaluation.counts,
            evaluation.own_counts,
        )


@dataclass(frozen=True)
class OutputFiles:
    """The open files of a run; without `outfile` in the config, none.

    `<outfile>_train.txt`: time in seconds, epoch, batch, loss, gradient norm.
    `<outfile>_test.txt`: epoch, time in seconds, loss, accuracy. The first and the last number
    of each line are what drivers read, so no other line may stand in it.
    """

    per_image: Path
    train: TextIO | None = None
    test: TextIO | None = None
    metrics: TextIO | None = None

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, outfile: str | None, *, keep_epochs: int = 0, trains: bool = True
    ) -> Iterator[Self]:
        """Open the files of `outfile`, emptied but for `keep_epochs`; close them at the end.

        A run that only evaluates leaves the train log of one before as it is.

        Raises:
            TrainerError: the folder cannot be written.
        """
        if outfile is None:
            yield cls(Path())
            return
        train, test = log_files(outfile)
        folder = Path(outfile).parent
        with contextlib.ExitStack() as stack:
            mode: Literal["a", "w"] = "a" if keep_epochs else "w"

            def create(path: Path) -> TextIO:
                try:
                    if keep_epochs:
                        _drop_later(path, keep_epochs)
                    # Line by line, so that a driver sees an evaluation when it is written.
                    return stack.enter_context(path.open(mode, buffering=1, encoding="utf-8"))
                except OSError as error:
                    raise TrainerError(f"{path}: cannot be written ({error.strerror})") from None

            make_folder(folder)
            metrics = create(named_after(outfile, METRICS))
            train_log = create(Path(train)) if trains else None
            yield cls(named_after(outfile, PER_IMAGE), train_log, create(Path(test)), metrics)

    def add_steps(self, steps: Sequence[Step]) -> None:
        """Append training steps to the train log."""
        if self.train:
            self.train.writelines(
                f"{step.time_s:.3f} {step.epoch} {step.batch} "
                f"{step.loss:.6g} {step.gradient_norm:.6g}\n"
                for step in steps
            )

    def add_evaluations(self, records: Sequence[EvaluationRecord]) -> None:
        """Append evaluations to the metrics, the last one's per-image table, then the test log.

        Each file gets all lines in one piece: a reader that finds an epoch finds the others too.
        """
        if self.test is None or self.metrics is None or not records:
            return
        self.metrics.write("".join(record.metrics_line for record in records))
        last = records[-1]
        last.counts.write_per_image_csv(self.per_image, last.own_counts)
        self.test.write("".join(record.test_line for record in records))
