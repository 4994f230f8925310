"""Names every file of a run folder, and reads the one that other engines write too.

No torch here: the driver imports this module.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import math
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainer.bounded import (
    MAX_LINE_BYTES,
    BoundError,
    finite,
    open_regular,
    parse_json,
    read_bytes,
    split_lines,
)

CONFIG = "config.json"
WORKER_LOG = "worker.log"
OUTFILE = "out.txt"
TRAIN_LOG = "out_train.txt"
TEST_LOG = "out_test.txt"
METRICS = "metrics.jsonl"
USED = "used"  # of its first entry: the settings that the run trains with
PER_IMAGE = "per_image.csv"
NETWORK_GRAPH = "network.dot"
CHECKPOINTS = "temp_model"
RESUME = "resume.pt"
PREDICTIONS = "output_1.h5"

# A worker is not trusted. What is read of its files is what a run's own can have: some lines for
# each epoch, of so many bytes in the mean.
NUM_TEST_FIELDS = 4  # of a line in out_test.txt: epoch, seconds, loss, accuracy
MAX_LOG_BYTES = 64 * 2**20
MAX_LINES = 1_000_000
MAX_EPOCHS = 10**6  # of a run that is believed to have so many
LINES_PER_EPOCH = 4
METRICS_PER_EPOCH = 2
SPARE_LINES = 50
SPARE_BYTES = 2**16
MEAN_LINE_BYTES = 256
MAX_TEST_LINE_BYTES = 4096
MEAN_METRICS_BYTES = 2**16
MAX_REPLACED = 100  # times that a log is read anew: once for each time that a run goes on
SCORE_SLACK = 1e-6  # of a Dice that is rounded to few digits
YOUNG_S = 60.0  # what is written aside may not be locked yet

# With nan and inf, or an accuracy of nan would leave the number before it as the last one.
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|\b(?:nan|inf)\b", re.IGNORECASE)


def log_files(outfile: str) -> tuple[str, str]:
    """Return the names of the train and the test log: `out.txt` gives `out_train.txt`, …"""
    path = Path(outfile)
    stem, suffix = path.stem, path.suffix or ".txt"
    return (
        str(path.with_name(f"{stem}_train{suffix}")),
        str(path.with_name(f"{stem}_test{suffix}")),
    )


def named_after(outfile: str, name: str) -> Path:
    """Return where a file of ours, such as METRICS, is beside the logs of `outfile`.

    Of `out.txt` it is NAME itself, of any other `run.txt` it is `run_NAME`: runs in one folder
    leave each other's files alone, as they do with the logs.
    """
    path = Path(outfile)
    run = path.stem if path.suffix in ("", ".txt") else path.name
    return path.with_name(name if run == Path(OUTFILE).stem else f"{run}_{name}")


def checkpoint_file(epoch: int | Literal["*"]) -> str:
    """Return the contract's name of the checkpoint of an epoch, or the pattern of all names."""
    return f"model_checkpoint_{epoch}.pt"


@dataclass(frozen=True)
class Evaluation:
    """One line of `out_test.txt`."""

    epoch: int
    accuracy: float
    loss: float | None = field(default=None, compare=False)  # where the line has one


def parse_test_line(line: str) -> Evaluation | None:
    """Read one line of a test log: its first number is the epoch, its last the accuracy."""
    numbers = _NUMBER.findall(line)
    if len(numbers) < 2:
        return None
    epoch, accuracy = float(numbers[0]), float(numbers[-1])
    if not epoch.is_integer() or epoch < 0 or not math.isfinite(accuracy):
        return None
    loss = float(numbers[-2]) if len(numbers) == NUM_TEST_FIELDS else None
    return Evaluation(int(epoch), accuracy, loss)


class _Followed:
    """Follows a growing file of lines, one call after the other.

    Lines are consumed only when they end in a newline, so a half-written one is never read.
    The folder belongs to a worker that we don't trust: only a regular file is opened, without
    following links or blocking on a FIFO, and no more of it is read than a run's log can have.
    """

    def __init__(self, path: Path, *, max_lines: int, max_bytes: int, max_line: int) -> None:
        self._path = path
        self._max_lines, self._max_bytes, self._max_line = max_lines, max_bytes, max_line
        self._offset = self._num_lines = self._num_replaced = 0
        self._file: tuple[int, int] | None = None
        self.was_replaced = False

    def read_lines(self) -> list[str]:
        """Return the lines written since the last call.

        A run that goes on from an earlier one replaces the file, without the lines of the epoch
        that was cut off: then `was_replaced` is True, and everything is read again.
        """
        self.was_replaced = False
        if self._num_replaced > MAX_REPLACED:  # by a worker that wants to keep us busy
            return []
        chunk = self._read_chunk()
        complete = chunk[: chunk.rfind(b"\n") + 1]
        is_at_limit = self._offset + len(chunk) >= self._max_bytes
        # at the limit for good: a line without an end must not be read again and again
        self._offset = self._max_bytes if is_at_limit else self._offset + len(complete)
        lines = split_lines(
            complete, max_lines=self._max_lines - self._num_lines, max_line=self._max_line
        )
        found = list(lines)
        self._num_lines += len(found)
        return found

    def _read_chunk(self) -> bytes:
        try:
            descriptor = open_regular(self._path)
        except (OSError, BoundError):
            return b""
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            found = (status.st_dev, status.st_ino)
            self.was_replaced = self._file not in (None, found) or status.st_size < self._offset
            self._file = found
            if self.was_replaced:
                self._offset = self._num_lines = 0
                self._num_replaced += 1
            file.seek(self._offset)
            # Python makes room for all that is asked for, before it looks how much there is.
            there = max(0, status.st_size - self._offset)
            return file.read(min(there, max(0, self._max_bytes - self._offset)))


class TestLogReader(_Followed):
    """Follows a growing `out_test.txt`."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    def __init__(
        self, path: Path, *, num_epochs: int | None = None, is_score: bool = False
    ) -> None:
        """Read from the beginning.

        Args:
            path: the log.
            num_epochs: of the run, which bounds lines and bytes; None where nobody knows.
            is_score: an accuracy is a Dice: what is not from 0 to 1 counts nothing.
        """
        max_lines = _max_lines(num_epochs, LINES_PER_EPOCH)
        max_bytes = min(MAX_LOG_BYTES, SPARE_BYTES + max_lines * MEAN_LINE_BYTES)
        super().__init__(
            path, max_lines=max_lines, max_bytes=max_bytes, max_line=MAX_TEST_LINE_BYTES
        )
        self._num_epochs = num_epochs
        self._is_score = is_score

    def read_new(self) -> list[Evaluation]:
        """Return the evaluations written since the last call; see `read_lines`."""
        entries = map(parse_test_line, self.read_lines())
        return [entry for entry in entries if entry is not None and self._is_taken(entry)]

    def _is_taken(self, entry: Evaluation) -> bool:
        if self._num_epochs is not None and entry.epoch > self._num_epochs:
            return False
        return not self._is_score or finite(entry.accuracy, 0, 1 + SCORE_SLACK) is not None


class MetricsReader(_Followed):
    """Follows a growing `metrics.jsonl`."""

    def __init__(self, path: Path, *, num_epochs: int | None = None) -> None:
        """Read from the beginning; `num_epochs` of the run bounds lines and bytes."""
        max_lines, max_bytes = _metrics_bounds(num_epochs)
        super().__init__(path, max_lines=max_lines, max_bytes=max_bytes, max_line=MAX_LINE_BYTES)

    def read_new(self) -> list[dict[str, Any]]:
        """Return the entries written since the last call; see `read_lines`."""
        return _parse_metrics(self.read_lines())


def _max_lines(num_epochs: int | None, per_epoch: int) -> int:
    """Return how many lines a log may have, some for headings among them."""
    if num_epochs is None:
        return MAX_LINES
    return min(MAX_LINES, SPARE_LINES + per_epoch * (num_epochs + 1))


def _metrics_bounds(num_epochs: int | None) -> tuple[int, int]:
    """Return how many lines, and bytes, a run's `metrics.jsonl` may have."""
    max_lines = _max_lines(num_epochs, METRICS_PER_EPOCH)
    return max_lines, min(MAX_LOG_BYTES, MAX_LINE_BYTES + max_lines * MEAN_METRICS_BYTES)


def _parse_metrics(lines: Iterable[str]) -> list[dict[str, Any]]:
    entries = []
    for line in lines:
        with contextlib.suppress(BoundError):
            entry = parse_json(line, non_finite_as_none=True)
            if isinstance(entry, dict):
                entries.append(entry)
    return entries


def read_metrics(run_dir: Path, num_epochs: int | None = None) -> list[dict[str, Any]]:
    """Return the entries of a run's `metrics.jsonl`, none where there is no such file.

    No more are read than a run of `num_epochs` writes. Numbers that are not finite are None.
    """
    max_lines, max_bytes = _metrics_bounds(num_epochs)
    content = read_untrusted(run_dir / METRICS, max_bytes)
    return _parse_metrics(split_lines(content, max_lines=max_lines))


def read_untrusted(path: Path, max_bytes: int = MAX_LOG_BYTES) -> bytes:
    """Read the beginning of a file that a worker wrote: nothing unless it is a regular file."""
    try:
        return read_bytes(path, max_bytes, cut=True)
    except (OSError, BoundError):
        return b""


def dump_config(config: Mapping[str, Any]) -> str:
    """Return a `neural_network` object as a config file."""
    return json.dumps({"neural_network": config}, indent=2)


def aside_name(path: Path) -> Path:
    """Return a name beside `path` to write it under, before it is renamed.

    Nobody can foresee it, so that no link lies in its place, nor does it collide with that of
    another process or host.
    """
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")


def remove_abandoned(path: Path) -> None:
    """Remove what killed processes have left beside `path` under such names.

    Of whoever writes still, on whatever host, it is locked (`hold`), or young.
    """
    for aside in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError), aside.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if abs(time.time() - os.fstat(file.fileno()).st_mtime) > YOUNG_S:
                aside.unlink()


def hold(descriptor: int) -> None:
    """Keep an open file from `remove_abandoned` until it is closed."""
    with contextlib.suppress(OSError):  # a file system without locks: nobody removes it there
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_atomic(path: Path, text: str) -> None:
    """Write aside and rename, so that a reader never sees half a file.

    Raises:
        OSError: it cannot be written; `filename` says which.
    """
    temporary = aside_name(path)
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # of a disk that is full
            error.filename = str(path)
        raise
