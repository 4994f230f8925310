"""Knows a full disk, and run folders that were removed: no trial is to blame for them."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from hpo.errors import HpoError
from trainer.rundir import aside_name

PROBE_BYTES = 2**16
MORE_BYTES = 2**20
# A worker that finds its disk full may mean another one, a container's /dev/shm, say: with so
# much free on the disk of the runs it does.
PLENTY_BYTES = 2**30
SAID_BY_WORKERS = ("No space left on device", "Disk quota exceeded")


class DiskFullError(HpoError):
    """The disk of the run folders, or our share of it, is full."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"the disk of {folder} is full; make room there")
        self._folder = folder
        # Where a little fits, a checkpoint may not: then more has to be free than now.
        self._free_bytes = _free_bytes(folder) if _has_room(folder) else None

    def has_room(self) -> bool:
        """Say whether there is room by now; a folder that is gone is not full."""
        if not self._folder.exists():
            return True
        if not _has_room(self._folder):
            return False
        least = 0 if self._free_bytes is None else self._free_bytes + MORE_BYTES
        return _free_bytes(self._folder) >= least


class FolderGoneError(HpoError):
    """The run folders, or what workers read there, were removed while the search ran."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} was removed, or a part of it, while the search ran")


def is_full_error(error: BaseException | None) -> bool:
    """Say whether an error is that of a full disk, or of a share of one that is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_full(folder: Path, log_tail: str) -> bool:
    """Say whether a worker that crashed in a folder has found the disk full."""
    is_said = any(words in log_tail for words in SAID_BY_WORKERS)
    return (is_said and _free_bytes(folder) < PLENTY_BYTES) or not _has_room(folder)


def _free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _has_room(folder: Path) -> bool:
    """Try it: what a quota leaves is seen in no other way."""
    probe = aside_name(folder / "room")
    try:
        with probe.open("xb") as file:
            file.write(bytes(PROBE_BYTES))
            os.fsync(file.fileno())
    except OSError as error:
        return not is_full_error(error)
    finally:
        probe.unlink(missing_ok=True)
    return True
