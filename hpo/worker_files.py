"""Copies and removes what workers leave: bounded in depth, size and time, never through a link.

A folder that a worker could write may hold anything: links, FIFOs, folders within folders beyond
any recursion, files that are holes of terabytes, and its worker may still be changing it. So all
is done relative to open folders, without recursion, and a stop of the driver is heeded meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpo.errors import EndingError
from trainer.bounded import BoundError, open_regular
from trainer.errors import DataError

MAX_MODEL_BYTES = 16 * 2**30  # of a checkpoint, which may be a hole of any size
REMOVE_LIMIT_S = 30.0  # 30,000 files take a second
STOP_LIMIT_S = 1.0  # once the driver is to stop
MAX_SIZE_DEPTH = 64
MAX_SIZE_ENTRIES = 100_000
_COPY_BYTES = 4 * 2**20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_file(
    source: Path,
    target: Path,
    *,
    max_bytes: int = MAX_MODEL_BYTES,
    folder: int | None = None,
    stopping: threading.Event | None = None,
) -> int:
    """Copy a file that a worker wrote, without following a link in the file's or folder's place.

    Holes stay holes. Returns how many bytes of data were copied.

    Args:
        max_bytes: the size of the largest file that is taken.
        folder: the open folder that has it, under the last part of its name.
        stopping: set when the driver is to stop.

    Raises:
        DataError: not a regular file, or larger than `max_bytes`; nothing is written then.
        EndingError: the driver is to stop.
        OSError: the disk is full, say.
    """
    descriptor = _open_own(source, folder)
    try:
        size = os.fstat(descriptor).st_size  # no further, should somebody still write to it
        if size > max_bytes:
            raise DataError(f"{source}: {size} bytes, more than {max_bytes}")
        num_copied = 0
        with target.open("wb", buffering=0) as copy:
            for start, end in _data_ranges(descriptor, size):
                while start < end and (
                    chunk := os.pread(descriptor, min(end - start, _COPY_BYTES), start)
                ):
                    if stopping is not None and stopping.is_set():
                        raise EndingError(f"{source} is not copied: the search is ending")
                    # of a disk that is nearly full, less than all; then the next one says so
                    num_written = os.pwrite(copy.fileno(), chunk, start)
                    start += num_written
                    num_copied += num_written
            os.ftruncate(copy.fileno(), size)
        return num_copied
    finally:
        os.close(descriptor)


def _open_own(source: Path, folder: int | None) -> int:
    try:
        if folder is not None:
            return open_regular(source.name, folder=folder)
        parent = os.open(source.parent, _FOLDER)
        try:
            return open_regular(source.name, folder=parent)
        finally:
            os.close(parent)
    except BoundError:
        raise DataError(f"{source}: not a regular file") from None
    except OSError as error:
        raise DataError(f"{source}: not a file of the worker's own ({error.strerror})") from None


def _data_ranges(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where a file has data, as start and end; all of it where holes cannot be seen."""
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno != errno.ENXIO:  # a file system that knows no holes
                yield end, size
            return
        yield start, end


def remove(
    path: Path,
    *,
    keep: str | None = None,
    stopping: threading.Event | None = None,
    limit_s: float = REMOVE_LIMIT_S,
) -> str | None:
    """Remove a file or link, or a folder with all that is in it; None once it is gone.

    Args:
        keep: the entry of the folder that stays, and the folder with it.
        stopping: set when the driver is to stop: then a second more is taken.
        limit_s: how long it may take.

    Returns a line that says what is left, and why.
    """
    problem = ""
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return None
        removal = _Removal(path, keep, stopping, limit_s)
        try:
            removal.empty()
            problem = removal.problem
        finally:
            removal.close()
        if keep is None:
            path.rmdir()
    except FileNotFoundError:
        return None
    except _LateError:
        return f"{path}: not all of it could be removed in time; remove the rest by hand"
    except OSError as error:
        return f"{path} cannot be removed ({problem or error.strerror})"
    return None


class _LateError(Exception):
    """There is no time for more."""


class _Removal:
    """Empties one folder: subfolders are moved up into it before they are, whatever their depth.

    So two folders are open at a time, and no path grows longer than the first.
    """

    def __init__(
        self, path: Path, keep: str | None, stopping: threading.Event | None, limit_s: float
    ) -> None:
        self._keep = keep
        self._stopping = stopping
        self._deadline = time.monotonic() + limit_s
        self._prefix = f".removed-{os.urandom(8).hex()}-"
        self._num_moved = 0
        self.problem = ""
        self._root = _open_folder(path)

    def close(self) -> None:
        os.close(self._root)

    def empty(self) -> None:
        while self._pass(self._root, self._remove_folder):
            continue

    def _pass(self, folder: int, take_folder: Any) -> bool:
        """Take each entry once; say whether any went, for then more may be seen."""
        has_gone = False
        with os.scandir(folder) as entries:
            for entry in entries:
                self._check_time()
                if folder == self._root and entry.name == self._keep:
                    continue
                try:
                    if entry.is_dir(follow_symlinks=False):
                        take_folder(entry.name)
                    else:
                        os.unlink(entry.name, dir_fd=folder)
                except OSError as error:
                    self.problem = self.problem or str(error.strerror)
                else:
                    has_gone = True
        return has_gone

    def _remove_folder(self, name: str) -> None:
        folder = _open_folder(name, self._root)
        try:
            while self._pass(folder, lambda name: self._move_up(name, folder)):
                continue
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=self._root)

    def _move_up(self, name: str, folder: int) -> None:
        # one that may not be written cannot be moved: its ".." changes
        os.close(_open_folder(name, folder))
        self._num_moved += 1
        target = f"{self._prefix}{self._num_moved}"
        os.rename(name, target, src_dir_fd=folder, dst_dir_fd=self._root)

    def _check_time(self) -> None:
        if self._stopping is not None and self._stopping.is_set():
            self._deadline = min(self._deadline, time.monotonic() + STOP_LIMIT_S)
            self._stopping = None
        if time.monotonic() > self._deadline:
            raise _LateError


def _open_folder(path: Path | str, parent: int | None = None) -> int:
    """Open a folder, no link, that we may change: its owner may have closed it."""
    try:
        folder = os.open(path, _FOLDER, dir_fd=parent)
    except PermissionError:
        _open_up(path, parent)
        folder = os.open(path, _FOLDER, dir_fd=parent)
    status = os.fstat(folder)
    if status.st_uid == os.geteuid() and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.fchmod(folder, stat.S_IRWXU)
    return folder


def _open_up(path: Path | str, parent: int | None) -> None:
    """Let us read a folder of ours: the folder itself, whatever stands in its place by then."""
    if os.chmod in os.supports_follow_symlinks:  # not on Linux
        os.chmod(path, stat.S_IRWXU, dir_fd=parent, follow_symlinks=False)
        return
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(path, flags, dir_fd=parent)
    try:
        Path(f"/proc/self/fd/{folder}").chmod(stat.S_IRWXU)
    finally:
        os.close(folder)


def tree_size(path: Path) -> tuple[int, bool]:
    """Return the bytes in a folder's regular files, and whether that is all of them.

    No more than MAX_SIZE_ENTRIES entries are looked at, none deeper than MAX_SIZE_DEPTH.
    """
    total, num_seen, is_all = 0, 0, True
    stack: list[tuple[int, Any]] = []
    try:
        stack.append(_listed(path))
        while stack:
            folder, entries = stack[-1]
            entry = next(entries, None)
            num_seen += 1
            if entry is None or num_seen > MAX_SIZE_ENTRIES:
                is_all = is_all and entry is None
                os.close(folder)
                entries.close()
                stack.pop()
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    if len(stack) >= MAX_SIZE_DEPTH:
                        is_all = False
                    else:
                        stack.append(_listed(entry.name, folder))
                    continue
                status = entry.stat(follow_symlinks=False)
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
            except OSError:
                is_all = False
    except OSError:
        is_all = False
    finally:
        for folder, entries in stack:
            entries.close()
            os.close(folder)
    return total, is_all


def _listed(path: Path | str, parent: int | None = None) -> tuple[int, Any]:
    folder = os.open(path, _FOLDER, dir_fd=parent)
    try:
        return folder, os.scandir(folder)
    except BaseException:
        os.close(folder)
        raise
