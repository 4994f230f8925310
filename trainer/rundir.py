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
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainer.errors import DataError

CONFIG = "config.json"
WORKER_LOG = "worker.log"
OUTFILE = "out.txt"
TRAIN_LOG = "out_train.txt"
TEST_LOG = "out_test.txt"
METRICS = "metrics.jsonl"
PER_IMAGE = "per_image.csv"
NETWORK_GRAPH = "network.dot"
CHECKPOINTS = "temp_model"
RESUME = "resume.pt"
PREDICTIONS = "output_1.h5"

NUM_TEST_FIELDS = 4  # of a line in out_test.txt: epoch, seconds, loss, accuracy
MAX_LOG_BYTES = 64 * 2**20  # a worker is not trusted: nobody needs a larger out_test.txt
MAX_MODEL_BYTES = 16 * 2**30  # nor a larger checkpoint, which may be a hole of any size
YOUNG_S = 60.0  # what is written aside may not be locked yet
_COPY_BYTES = 4 * 2**20

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


class TestLogReader:
    """Follows a growing `out_test.txt`, one call after the other.

    Lines are consumed only when they end in a newline, so a half-written one is never read.
    The folder belongs to a worker that we don't trust: only a regular file is opened, without
    following links or blocking on a FIFO, and no more than MAX_LOG_BYTES of it.
    """

    __test__ = False  # not a test class, whatever pytest thinks of the name

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._file: tuple[int, int] | None = None
        self.was_replaced = False

    def read_new(self) -> list[Evaluation]:
        """Return the evaluations written since the last call.

        A run that goes on from an earlier one replaces the log, without the lines of the epoch
        that was cut off: then `was_replaced` is True, and everything is read again.
        """
        self.was_replaced = False
        descriptor = _open_untrusted(self._path)
        if descriptor is None:
            return []
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            found = (status.st_dev, status.st_ino)
            self.was_replaced = self._file not in (None, found) or status.st_size < self._offset
            self._file = found
            if self.was_replaced:
                self._offset = 0
            file.seek(self._offset)
            chunk = file.read(max(0, MAX_LOG_BYTES - self._offset))
        complete = chunk[: chunk.rfind(b"\n") + 1]
        is_at_limit = self._offset + len(chunk) >= MAX_LOG_BYTES
        # at the limit for good: a line without an end must not be read again and again
        self._offset = MAX_LOG_BYTES if is_at_limit else self._offset + len(complete)
        lines = complete.decode("utf-8", errors="replace").splitlines()
        return [entry for line in lines if (entry := parse_test_line(line))]


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the entries of a run's `metrics.jsonl`, none where there is no such file."""
    entries = []
    for line in read_untrusted(run_dir / METRICS, 0).splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                entries.append(entry)
    return entries


def read_untrusted(path: Path, offset: int = 0) -> bytes:
    """Read a file that a worker wrote, from `offset`: nothing unless it is a regular file."""
    descriptor = _open_untrusted(path)
    if descriptor is None:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(offset)
        return file.read(max(0, MAX_LOG_BYTES - offset))


def _open_untrusted(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


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
    """Write aside and rename, so that a reader never sees half a file."""
    temporary = aside_name(path)
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def copy_untrusted(source: Path, target: Path, max_bytes: int = MAX_MODEL_BYTES) -> None:
    """Copy a file that a worker wrote, without following a link in the file's or folder's place.

    Raises:
        DataError: not a regular file, or larger than `max_bytes`; nothing is written then.
    """
    try:
        folder = os.open(source.parent, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(source.name, flags, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise DataError(f"{source}: not a file of the worker's own ({error.strerror})") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise DataError(f"{source}: not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > max_bytes:
            raise DataError(f"{source}: {status.st_size} bytes, more than {max_bytes}")
        with target.open("wb") as copy:
            left = status.st_size  # no further, should somebody still write to it
            while left and (chunk := file.read(min(left, _COPY_BYTES))):
                copy.write(chunk)
                left -= len(chunk)
