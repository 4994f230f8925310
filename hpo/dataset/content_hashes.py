"""Identifies files by all that is in them: each is read once, and remembered by its status.

Size, inode and the times of change say that a file is the one that was read. The second time
(ctime) no program can set back; a new hard link changes it too, which `Contents.linked` mends.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hpo.errors import UsageError
from hpo.folders import CONTENTS
from trainer.bounded import open_regular
from trainer.data.fingerprint import clock_tick_ns
from trainer.errors import DataError
from trainer.rundir import write_atomic
from trainer.wording import counted

MANIFEST = "files.json"  # in a split: path -> hash of what was put there
MAX_READS = 3  # of a file whose ctime alone changes: each driver links it only once

Status = tuple[int, int, int, int]


class Contents:
    """The hashes of files, remembered in one file from call to call."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known = _read_memory(memory)

    def digests(
        self,
        files: Sequence[Path],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[Path, str]:
        """Return file -> hash of its whole content.

        Raises:
            DataError: one cannot be read, or changed while it was.
        """
        digests: dict[Path, str] = {}
        unknown = []
        for path in files:
            status, digest = self._known.get(str(path.absolute()), (None, ""))
            if status is not None and status == _status(path):
                digests[path] = digest
            else:
                unknown.append(path)
        if not unknown:
            return digests
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done, (path, (status, digest)) in enumerate(
                zip(unknown, pool.map(_read, unknown), strict=True), 1
            ):
                digests[path] = digest
                self._remember(path, status, digest)
                progress(done, len(unknown))
        self.save()
        return digests

    def linked(self, source: Path, target: Path) -> None:
        """Note that a file has got a second name, whose making changed its status."""
        status, digest = self._known.get(str(source.absolute()), (None, ""))
        now = _status(source)
        if status is not None and status[:3] == now[:3]:
            for path in (source, target):
                self._known[str(path.absolute())] = (now, digest)

    def save(self) -> None:
        """Write what is known; that it cannot be written costs reading again, and nothing else."""
        with contextlib.suppress(OSError):
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._memory, json.dumps(self._known))

    def _remember(self, path: Path, status: Status, digest: str) -> None:
        self._known.pop(str(path.absolute()), None)
        newest = max(status[2:])
        if newest < time.time_ns() - clock_tick_ns(newest):
            self._known[str(path.absolute())] = (status, digest)


def _read_memory(memory: Path) -> dict[str, tuple[Status, str]]:
    known: dict[str, tuple[Status, str]] = {}
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        for name, (status, digest) in json.loads(memory.read_text(encoding="utf-8")).items():
            known[name] = (tuple(status), digest)
    return known


def _read(path: Path) -> tuple[Status, str]:
    before = _status(path)
    for _ in range(MAX_READS):
        try:
            # A pipe would be waited for.
            with os.fdopen(open_regular(path, follow_links=True), "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        after = _status(path)
        if after[:3] != before[:3]:
            raise DataError(f"{path}: changed while it was read; start again when it is whole")
        if after == before:
            break
        before = after  # another driver's split has got a link to it, most likely
    return before, digest


def _status(path: Path) -> Status:
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


# --- a split --------------------------------------------------------------------------------


def list_split(folder: Path) -> dict[str, Path]:
    """Return PART/KIND/NAME -> file of a split."""
    files = (path for path in folder.glob("*/*/**/*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in files}


def is_split_of(
    folder: Path, sources: Mapping[str, str], contents: Contents, *, by_part: bool = False
) -> bool:
    """Tell whether a split holds these files, KIND/NAME -> hash, in whatever parts.

    Args:
        by_part: the files are named PART/KIND/NAME, and each is where it belongs.
    """
    files = list_split(folder)
    digests = contents.digests([*files.values()])
    found = {
        name if by_part else name.partition("/")[2]: digests[path] for name, path in files.items()
    }
    return found == sources and _read_manifest(folder) in (
        None,
        {name: digests[path] for name, path in files.items()},
    )


def write_manifest(folder: Path, digests: Mapping[str, str]) -> None:
    """Write what a split holds, for who reads it later without the data that it is of."""
    write_atomic(folder / MANIFEST, json.dumps(dict(sorted(digests.items())), indent=1))


def check_split(folder: Path, progress: Callable[[int, int], None]) -> None:
    """Check that a split is as it was made; one of an earlier version has no list to tell.

    Raises:
        UsageError: a file of it has changed since.
    """
    manifest = _read_manifest(folder)
    if manifest is None:
        return
    files = list_split(folder)
    digests = Contents(folder.with_name(CONTENTS)).digests([*files.values()], progress)
    found = {name: digests[path] for name, path in files.items()}
    changed = sorted(n for n in {*found, *manifest} if found.get(n) != manifest.get(n))
    if changed:
        raise UsageError(
            f"{folder}: {counted(len(changed), 'file is not one', 'files are none')} of those "
            f"that the study was made with ({', '.join(changed[:3])}): they were changed since; "
            "put the old ones back, or "
            "search again under another --study-name"
        )


def _read_manifest(folder: Path) -> dict[str, str] | None:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else None
    return None
