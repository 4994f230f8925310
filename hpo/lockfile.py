"""A lock for file systems without flock, as Lustre and some network disks are mounted.

The lock is a file that exists while somebody holds it. Unlike flock's, the kernel does not take it
away from a process that dies, so its holder touches it all the time, and one that nobody touches
any more is removed by who waits. No clocks are compared: machines may differ in theirs.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from hpo.owner import HOST, SESSION, driver_labels, is_dead

TOUCH_INTERVAL_S = 5.0
STALE_S = 60.0
_LOOK_INTERVAL_S = 0.1


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock `path` for the time of the block; wait for it before."""
    ours = driver_labels("")
    token = f"{ours[HOST]}/{ours[SESSION]}/{uuid.uuid4().hex}"
    seen, since = None, 0.0
    while not _create(path, token):
        found = _look(path)
        if found is None:  # let go meanwhile
            continue
        if found != seen:
            seen, since = found, time.monotonic()
        elif time.monotonic() - since > STALE_S or _is_holder_dead(found[0]):
            _remove(path, found[0])
            continue
        time.sleep(_LOOK_INTERVAL_S)
    ended = threading.Event()
    toucher = threading.Thread(target=_touch, args=(path, ended), name="lock", daemon=True)
    toucher.start()
    try:
        yield
    finally:
        ended.set()
        toucher.join()
        _remove(path, token)


def _create(path: Path, token: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(token)
    return True


def _look(path: Path) -> tuple[str, int] | None:
    try:
        return path.read_text(), path.stat().st_mtime_ns
    except OSError:
        return None


def _is_holder_dead(token: str) -> bool:
    host, _, rest = token.partition("/")
    return host == driver_labels("")[HOST] and is_dead(rest.partition("/")[0])


def _touch(path: Path, ended: threading.Event) -> None:
    while not ended.wait(TOUCH_INTERVAL_S):
        with contextlib.suppress(OSError):  # a disk that is away for a moment
            os.utime(path)


def _remove(path: Path, token: str) -> None:
    """Remove the lock if it is still that holder's; of several that try, one does."""
    found = _look(path)
    if found is None or found[0] != token:
        return
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):
        path.rename(aside)
        aside.unlink()
