"""Opens, limits and reads a worker's log, in a folder whose owner we don't trust."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from pathlib import Path
from typing import BinaryIO

from hpo.errors import LauncherError
from trainer import rundir
from trainer.bounded import BoundError, open_regular
from trainer.log import printable

MAX_LOG_BYTES = 64 * 2**20
_LOOK_INTERVAL_S = 0.5
_SLACK_BYTES = 4096  # for the line that says so
_TAIL_BYTES = 64 * 1024

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
MAX_SHOWN_CHARS = 500
MAX_LINE_CHARS = 8192  # of a line of the log that is shown; what a worker can do fits in one


def open_log(run_dir: Path) -> BinaryIO:
    """Open the log for appending, so that a second start in one folder loses nothing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    path = run_dir / rundir.WORKER_LOG
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        raise LauncherError(f"cannot write {str(path)!r}: {error.strerror}") from error
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "wb", buffering=0)


class BoundedLog:
    """Writes what a container prints, up to a size, then one line that says so."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file = file
        self._left = max_bytes
        self._max_bytes = max_bytes

    def write(self, chunk: bytes) -> None:
        """Append a chunk, or drop what goes beyond the limit."""
        if self._left <= 0:
            return
        try:
            self._file.write(chunk[: self._left])
        except OSError:  # a full disk; the worker must not block on a log that nobody reads
            self._left = 0
            return
        self._left -= len(chunk)
        if self._left <= 0:
            self.note(f"log cut after {self._max_bytes} bytes")

    def note(self, text: str) -> None:
        """Append a line of our own, whatever the size."""
        with contextlib.suppress(OSError):
            self._file.write(_note(text))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LogLimit:
    """Limits the size of a log that its worker itself appends to.

    What comes after the limit is dropped each time, with one line that says so.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / rundir.WORKER_LOG
        self._next_look = 0.0

    def keep(self, *, is_last: bool = False) -> None:
        """Look at the log now and then, and at its end."""
        now = time.monotonic()
        if now >= self._next_look or is_last:
            self._next_look = now + _LOOK_INTERVAL_S
            self._cut()

    def _cut(self) -> None:
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self._path, flags)
        except OSError:
            return
        with os.fdopen(descriptor, "wb", buffering=0) as file, contextlib.suppress(OSError):
            status = os.fstat(descriptor)
            # a second link is somebody's file
            is_own = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
            if is_own and status.st_size > MAX_LOG_BYTES + _SLACK_BYTES:
                os.ftruncate(descriptor, MAX_LOG_BYTES)
                file.write(_note(f"log cut after {MAX_LOG_BYTES} bytes"))


def _note(text: str) -> bytes:
    return f"\n[rml-optimize: {text}]\n".encode()


def shortened(text: str) -> str:
    """Return text with each of its lines cut to what somebody may read."""
    return "\n".join(
        line if len(line) <= MAX_SHOWN_CHARS else f"{line[:MAX_SHOWN_CHARS]} …"
        for line in text.split("\n")
    )


def read_tail(run_dir: Path, num_lines: int) -> str:
    """Return the log's last lines without escape sequences and control characters."""
    try:
        descriptor = open_regular(run_dir / rundir.WORKER_LOG)
    except (OSError, BoundError):
        return ""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(max(0, os.fstat(descriptor).st_size - _TAIL_BYTES))
        text = file.read(_TAIL_BYTES).decode("utf-8", errors="replace")
    # splitlines also parts at \r, so of a progress bar only the last states remain
    lines = (_CONTROL.sub("", _ESCAPE.sub("", line)).rstrip() for line in text.splitlines())
    shown = [printable(line)[:MAX_LINE_CHARS] for line in lines if line]
    return "\n".join(shown[-num_lines:])
