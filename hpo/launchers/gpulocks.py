"""Keeps the drivers of one machine off each other's GPUs, whatever their users and databases.

A GPU is held in two ways, and is taken only if both are free. One is a lock file in a folder that
every user can write, which drivers in containers may share as well. Such a file can be unlinked
under its holder (tmp cleaners, logind at a logout), so the other is a name in the kernel: an
abstract socket's, which nobody can remove. The kernel gives both back when the driver ends,
however it ends. Workers do not inherit them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
import sys
from pathlib import Path

from hpo.errors import UsageError

# The first that is there and open to all, so the same for every user of the machine.
LOCK_FOLDERS = (Path("/run/lock"), Path("/dev/shm"), Path("/tmp"))
_OPEN_TO_ALL = stat.S_ISVTX | stat.S_IWOTH  # the sticky bit: nobody removes another's file


class GpuLocks:
    """The GPUs that this driver holds."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, socket.socket | None]] = {}

    def take(self, uuid: str) -> bool:
        """Take a GPU, or return False if another driver holds it.

        Raises:
            UsageError: something that is no lock file is in its place.
        """
        lock = f"rml-gpu-{re.sub(r'[^A-Za-z0-9-]', '_', uuid)}.lock"
        descriptor = _lock(lock_folder() / lock)
        if descriptor is None:
            return False
        name = None
        if sys.platform == "linux":
            name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                name.bind(f"\0{lock}")
            except OSError:
                name.close()
                os.close(descriptor)
                return False
        self._held[uuid] = descriptor, name
        return True

    def release(self, uuid: str) -> None:
        """Give one GPU back."""
        descriptor, name = self._held.pop(uuid)
        os.close(descriptor)
        if name is not None:
            name.close()

    def close(self) -> None:
        """Give all GPUs back."""
        for uuid in list(self._held):
            self.release(uuid)


def lock_folder() -> Path:
    """Return the folder of the lock files.

    Raises:
        UsageError: no folder of this machine is open to all of its users.
    """
    for folder in LOCK_FOLDERS:
        try:
            mode = folder.stat().st_mode
        except OSError:
            continue
        if mode & _OPEN_TO_ALL == _OPEN_TO_ALL:
            return folder
    names = ", ".join(map(str, LOCK_FOLDERS))
    raise UsageError(f"GPUs cannot be locked: none of {names} is a folder that all users share")


def _lock(path: Path) -> int | None:
    """Return the descriptor of a lock file that is ours now, None if it is another driver's."""
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return None
            raise _not_ours(path, error.strerror) from None
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # unlinked before it was locked: the next driver would not meet it


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def _open(path: Path) -> int:
    """Open a lock file for reading, which is all that a lock takes; make it if need be.

    Never written, and opened without following links or waiting: in a folder like this anybody
    may have put anything under that name.
    """
    safely = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            # not with O_CREAT: kernels refuse that for another user's file in such a folder
            descriptor = os.open(path, safely)
        except FileNotFoundError:
            try:
                descriptor = os.open(path, safely | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:  # another driver was faster
                continue
            os.fchmod(descriptor, 0o644)  # whatever the umask: others must be able to open it
        except OSError as error:
            raise _not_ours(path, error.strerror) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _not_ours(path, "not a regular file")
        return descriptor


def _not_ours(path: Path, reason: str | None) -> UsageError:
    return UsageError(f"{path} is not a lock of rml-optimize's ({reason}); have it removed")
