"""Keeps decoded data sets on the disk, mapped by all workers of a node.

    ROOT/KEY/           an entry: .npy files and META, never changed once it has this name
    ROOT/KEY.XYZ.tmp/   one that is being built, or what a crash left of it: never read
    ROOT/KEY.use        lock: shared by all that have the entry open; its time: last use
    ROOT/KEY.build      lock: whoever builds the entry
    ROOT/room.lock      lock: whoever counts and removes entries

An entry is complete because it is renamed when it is; META has a checksum of its own and those of
the arrays (see `trainer.data.stores`). flock ends with its process, so a crash blocks nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.data.images import Array
from trainer.data.locks import FileLock
from trainer.data.stores import FileStore, Store, open_array
from trainer.log import Log

META = "meta.json"
RESERVED = "reserved"
FREE_SHARE = 0.05  # of the file system that others keep
MAX_FREE_BYTES = 2 * 2**30

_ENTRY = re.compile(r"[0-9a-f]{32}")
_UNFINISHED = re.compile(r"([0-9a-f]{32})\.[0-9a-f]+\.tmp")

Build = Callable[[Store], Mapping[str, Counter[int]]]


class CacheUnusableError(Exception):
    """Images stay in memory this time; the message says why. Never an error for the user."""


@dataclass(frozen=True)
class Entry:
    """A data set in the cache; it is not removed while `lock` is held.

    Attributes:
        arrays: by name, mapped read-only.
        counts: pixels per stored value, as `trainer.data.reading` names and returns them.
    """

    arrays: Mapping[str, Array]
    counts: Mapping[str, Counter[int]]
    lock: FileLock


class ImageCache:
    """The entries below one folder.

    Raises:
        CacheUnusableError: the folder cannot be made, or is somebody else's, who could make us
            train on anything.
    """

    def __init__(self, root: Path, *, max_bytes: int, log: Log) -> None:
        self.root = root
        self._max_bytes = max_bytes
        self._log = log
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = root.stat().st_uid
        except OSError as error:
            raise CacheUnusableError(f"{root}: {error.strerror}") from None
        if owner != os.geteuid():
            raise CacheUnusableError(f"{root} belongs to another user")

    def open_or_build(self, key: str, build: Build) -> tuple[Entry, bool]:
        """Return an entry, and whether it was built here; of several processes, one builds.

        Raises:
            CacheUnusableError: no room.
            OSError: the folder cannot be written.
        """
        entry = self._open(key)
        if entry is not None:
            return entry, False
        path = self.root / f"{key}.build"
        lock = FileLock.try_take(path)
        if lock is None:
            self._log("Image cache: waiting for another worker, which decodes these images")
            lock = FileLock.take(path)
        try:
            entry = self._open(key)  # whoever had the lock may have built it
            return (entry, False) if entry is not None else (self._build(key, build), True)
        finally:
            lock.release(remove=True)

    def _open(self, key: str) -> Entry | None:
        if not (self.root / key).is_dir():
            return None
        lock = FileLock.take(self.root / f"{key}.use", shared=True)
        os.utime(self.root / f"{key}.use")
        try:
            return self._read(key, lock, check=True)
        except (OSError, ValueError, KeyError, TypeError):  # damaged, or removed a moment ago
            lock.release()
            return None

    def _read(self, key: str, lock: FileLock, *, check: bool) -> Entry:
        folder = self.root / key
        checksum, _, text = (folder / META).read_text(encoding="utf-8").partition("\n")
        if checksum != _checksum(text):
            raise ValueError(f"{folder / META}: damaged")
        meta = json.loads(text)
        arrays = {
            name: open_array(folder, name, entry, check=check)
            for name, entry in meta["arrays"].items()
        }
        counts = {part: Counter(dict(pairs)) for part, pairs in meta["counts"].items()}
        return Entry(arrays, counts, lock)

    def _build(self, key: str, build: Build) -> Entry:
        """Build aside and rename; the caller holds the build lock."""
        for path in self.root.glob(f"{key}.*.tmp"):  # of a builder that was killed
            shutil.rmtree(path, ignore_errors=True)
        folder = self.root / f"{key}.{uuid.uuid4().hex}.tmp"
        store = _RoomyStore(folder, self._make_room)
        try:
            counts = build(store)
            pairs = {part: list(values.items()) for part, values in counts.items()}
            text = json.dumps({"arrays": store.finish(), "counts": pairs})
            (folder / META).write_text(f"{_checksum(text)}\n{text}", encoding="utf-8")
            (folder / RESERVED).unlink()
            # Held before anybody can see the entry, so that nobody removes it at once.
            lock = FileLock.take(self.root / f"{key}.use", shared=True)
            with contextlib.suppress(FileNotFoundError):
                self._remove(self.root / key)  # one that is damaged; who maps it keeps its pages
            folder.rename(self.root / key)
        finally:
            store.close()
            shutil.rmtree(folder, ignore_errors=True)
        return self._read(key, lock, check=False)

    def _make_room(self, folder: Path, num_bytes: int) -> None:
        """Make the folder of a new entry, and count its bytes from now on."""
        lock = FileLock.take(self.root / "room.lock")
        try:
            sizes = self._sizes()
            status = os.statvfs(self.root)
            disk_bytes = status.f_blocks * status.f_frsize
            to_leave = min(FREE_SHARE * disk_bytes, MAX_FREE_BYTES)
            removable = sorted(
                (path for path in sizes if _ENTRY.fullmatch(path.name)), key=_last_use
            )
            while True:
                status = os.statvfs(self.root)
                free_bytes = status.f_bavail * status.f_frsize - to_leave
                if sum(sizes.values()) + num_bytes <= self._max_bytes and num_bytes <= free_bytes:
                    break
                if not removable or num_bytes > self._max_bytes:
                    raise CacheUnusableError(
                        f"no room for {num_bytes / 1e9:.1f} GB in {self.root} (limit "
                        f"{self._max_bytes / 1e9:.1f} GB, $RML_CACHE_GB; "
                        f"{max(0.0, free_bytes) / 1e9:.1f} GB of the disk may be used)"
                    )
                oldest = removable.pop(0)
                if self._remove_unused(oldest):
                    del sizes[oldest]
            folder.mkdir(mode=0o700)
            with (folder / RESERVED).open("wb") as file:
                file.truncate(num_bytes)  # a hole: it says how large the entry will be
        finally:
            lock.release()

    def _sizes(self) -> dict[Path, int]:
        """Return the size of each entry, after removing what crashed builders left."""
        sizes = {}
        for path in self.root.iterdir():
            unfinished = _UNFINISHED.fullmatch(path.name)
            if unfinished:
                lock = FileLock.try_take(self.root / f"{unfinished[1]}.build")
                if lock is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    lock.release(remove=True)
                    continue
            if unfinished or _ENTRY.fullmatch(path.name):
                sizes[path] = _size(path)
        return sizes

    def _remove_unused(self, folder: Path) -> bool:
        lock = FileLock.try_take(folder.with_suffix(".use"))
        if lock is None:
            return False
        with contextlib.suppress(FileNotFoundError):
            self._remove(folder)
        lock.release(remove=True)
        return True

    def _remove(self, folder: Path) -> None:
        aside = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.tmp")
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


class _RoomyStore(FileStore):
    """Asks for room before its folder is made."""

    def __init__(self, folder: Path, make_room: Callable[[Path, int], None]) -> None:
        super().__init__(folder)
        self._make_room = make_room

    def expect(self, num_bytes: int) -> None:
        self._make_room(self._folder, num_bytes)


def _size(folder: Path) -> int:
    sizes: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError):  # published or removed meanwhile
        for path in folder.iterdir():
            sizes[path.name] = path.stat().st_size
    return max(sizes.pop(RESERVED, 0), sum(sizes.values()))


def _last_use(folder: Path) -> float:
    try:
        return folder.with_suffix(".use").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def cache_root(setting: str, environment: Mapping[str, str]) -> Path | None:
    """Return the folder that `data.cache` means, None for "off".

    Raises:
        CacheUnusableError: there is no home folder.
    """
    if setting == "auto":
        setting = environment.get("RML_CACHE_DIR") or "auto"
    if setting == "off":
        return None
    try:
        if setting != "auto":
            base = Path(setting).expanduser()
        elif Path(environment.get("XDG_CACHE_HOME", "")).is_absolute():
            base = Path(environment["XDG_CACHE_HOME"], "rml-optimize")
        else:
            base = Path.home() / ".cache" / "rml-optimize"
    except RuntimeError as error:
        raise CacheUnusableError(str(error)) from None
    return base.absolute() / "images-1"


def max_cache_bytes(environment: Mapping[str, str]) -> int:
    """Return the bound on all entries together; nonsense means the default."""
    with contextlib.suppress(ValueError, OverflowError):
        return int(float(environment.get("RML_CACHE_GB", "")) * 10**9)
    return 50 * 10**9
