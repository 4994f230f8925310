"""Replaces folders as a whole, under a lock, and never one that is somebody else's."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from hpo.lockfile import held
from trainer.data.locks import NO_LOCKS

TRIAL_FILE = "trial.json"  # says whose model a folder holds

# To bring a large model from the artifact store takes its time; a driver that was stopped
# (SIGSTOP) takes for ever.
LOCK_PATIENCE_S = 60.0
IMPATIENCE_S = 1.0
LOOK_INTERVAL_S = 0.05
MAX_HOLDER = 300  # characters
_stuck: set[Path] = set()

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux: <fcntl.h>, <linux/fs.h>


def is_regular_file(path: Path) -> bool:
    """Say whether a path is a file of its own, in a folder of its own: no link to elsewhere."""
    try:
        return stat.S_ISREG(path.lstat().st_mode) and not path.parent.is_symlink()
    except OSError:
        return False


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, an empty one where there is no such file or no object."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entry if isinstance(entry, dict) else {}


def other_spelling(path: Path) -> str | None:
    """Return the name that a path is there under, if that differs from its own by case only."""
    if not path.exists():
        return None
    names = os.listdir(path.parent)  # noqa: PTH208  # the names as they were given
    if path.name in names:
        return None
    return next((name for name in names if name.casefold() == path.name.casefold()), None)


class LockHeldError(OSError):
    """Somebody has a lock and does not go on: stopped, say, or its disk hangs."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep the other drivers of this output folder away from a file or folder in it.

    Raises:
        LockHeldError: another has it for long.
    """
    path = folder.with_name(f".{folder.name}.lock")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("a+"))  # it says who has it
        try:
            _wait_for(file, path)  # given back when the file closes, killed or not
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            stack.enter_context(held(path.with_suffix(".held")))
        else:
            _sign(file)
        yield


def _wait_for(file: TextIO, path: Path) -> None:
    # Once it has waited in vain it waits no more until then, or each trial would.
    patience_s = IMPATIENCE_S if path in _stuck else LOCK_PATIENCE_S
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(LOOK_INTERVAL_S)
                continue
            _stuck.add(path)
            raise LockHeldError(
                errno.ETIMEDOUT, f"{_holder(file)} has it locked and does not go on", str(path)
            ) from None
        _stuck.discard(path)
        return


def _sign(file: TextIO) -> None:
    """Write who has a lock, for those that wait for it."""
    with contextlib.suppress(OSError):  # a full disk
        file.truncate(0)
        file.write(f"process {os.getpid()} of host {socket.gethostname()}")
        file.flush()


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read(MAX_HOLDER) or "another process"


def keep_foreign(folder: Path, study_id: str | None) -> None:
    """Move what is not this study's best model out of the way, to a name that is free."""
    if not folder.is_dir():
        return
    entry = read_json(folder / TRIAL_FILE)
    if "study_id" in entry and entry["study_id"] == study_id:
        return
    name = f"{folder.name}-{entry.get('study', 'before')}"
    free = folder.with_name(name)
    number = 2
    while free.exists():
        free = folder.with_name(f"{name}-{number}")
        number += 1
    folder.rename(free)


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`; what was there ends up at `new`.

    On Linux both names are exchanged in one step. Elsewhere, and on file systems that cannot, the
    old folder is renamed away first: for a moment nothing is there.
    """
    if not target.exists():
        new.rename(target)
        return
    if not _exchange(new, target):
        away = target.with_name(f".{target.name}.{os.urandom(8).hex()}.old")
        target.rename(away)
        new.rename(target)
        away.rename(new)


def _exchange(first: Path, second: Path) -> bool:
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = (os.fsencode(first), os.fsencode(second))
    code = renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    return bool(code == 0)
