"""A lock between processes that no crash leaves behind: the kernel lets go of it."""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from pathlib import Path

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)  # of a file system


class FileLock:
    """An flock on a file, held until `release`, the garbage collector or the process's end."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._close = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def take(cls, path: Path, *, shared: bool = False) -> FileLock:
        """Wait until the lock is ours.

        Raises:
            OSError: the file cannot be made, or its file system has no locks.
        """
        lock = cls._take(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        assert lock is not None
        return lock

    @classmethod
    def try_take(cls, path: Path, *, shared: bool = False) -> FileLock | None:
        """Return the lock, or None where somebody else has it."""
        return cls._take(path, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)

    @classmethod
    def _take(cls, path: Path, how: int) -> FileLock | None:
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, how)
                is_current = _is_at(descriptor, path)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            if is_current:
                return cls(path, descriptor)
            os.close(descriptor)  # its last holder has removed it: lock the one that is there now

    def release(self, *, remove: bool = False) -> None:
        """Let go; with `remove`, which only an exclusive holder may say, of the file as well."""
        if remove and self._close.alive:
            self._path.unlink(missing_ok=True)
        self._close()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
