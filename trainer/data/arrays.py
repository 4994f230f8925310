"""Finds arrays in .npy, .npz and HDF5 files, and reads them, or boxes out of them, on demand.

Nothing in a file is trusted: no pickles, no links, no values kept in other files.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from trainer.bounded import BoundError, open_regular, read_bytes
from trainer.data.hdf5filters import refuse_unknown_filters
from trainer.data.hdf5links import Link, link_of, refuse_links
from trainer.data.headers import MAX_PIXELS
from trainer.data.images import Array, refuse_foreign_links
from trainer.errors import DataError
from trainer.hdf5 import MAX_DEPTH, MAX_NAMES, check_storage, refuse_elsewhere
from trainer.zipped import open_zip

SUFFIXES = {"numpy": (".npy", ".npz"), "hdf5": (".h5", ".hdf5")}
MAX_VALUES = MAX_PIXELS  # in one sample: a gigabyte as float32
MAX_PACKED_BYTES = 8 * MAX_PIXELS  # of an array in an .npz, which is unpacked as a whole
BLOCK_VALUES = 2**24  # are looked at together when a whole array is
MAX_OPEN = 16  # files, or arrays of an .npz
MAX_OPEN_BYTES = 2**28  # of the latter together, but for the last
MAX_HEADER_BYTES = 2**16  # of an .npy
UNCHECKED_BYTES = 2**30  # see trainer.hdf5: chunks of training data are large, and many

Region = tuple[slice, ...]


@dataclass(frozen=True)
class Source:
    """An array in a file.

    Attributes:
        path: the file.
        key: name of the data set (HDF5) or of the array (.npz); "" for an .npy.
        shape: of the whole array.
        dtype: its numbers, of any kind but complex.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.path}[{self.key}]" if self.key else str(self.path)


def list_sources(
    path: Path, kind: str, key: str, *, follow_symlinks: bool = False
) -> tuple[list[Source], list[str]]:
    """Return the arrays of a file, or of all files of a folder, sorted by file and name.

    Args:
        path: a file, a folder, or FILE/NAME: the array, or the group of arrays, in a file.
        kind: "numpy" or "hdf5".
        key: the config's key for the path, for errors.

    Returns:
        The arrays, and notes about links that change nothing.

    Raises:
        DataError: nothing there, a link that leaves the folder or the file, or a file that is
            broken or holds no numbers.
    """
    suffixes = SUFFIXES[kind]
    path, name = split_name(path)
    if path.is_dir():
        files = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in suffixes and not file.name.startswith(".")
        )
        if not follow_symlinks:
            refuse_foreign_links(files, path, key)
    else:
        files = [path] if path.is_file() else []
        if files and path.suffix.lower() not in suffixes:
            raise DataError(f"{key}: {path}: expected {' or '.join(suffixes)} for type {kind}")
    if not files:
        there = "no such file or folder" if not path.exists() else "no file"
        raise DataError(f"{key}: {there}: {path}; expected {' or '.join(suffixes)}")
    sources: list[Source] = []
    linked: list[tuple[list[Link], list[str]]] = []  # links and arrays of each HDF5 file
    for file in files:
        with _readable(str(file)):
            if kind == "hdf5":
                found, links = _list_hdf5(file)
                sources += found
                linked.append((links, [source.key for source in found]))
            elif file.suffix.lower() == ".npz":
                sources.extend(_list_npz(file))
            else:
                array = _mapped(file)
                sources.append(Source(file, "", array.shape, array.dtype))
    notes = [note for entry in linked for note in refuse_links(*entry, name, key)]
    sources = _of_name(sources, name, path, key)
    for source in sources:
        if source.dtype.kind not in "biuf":
            raise DataError(f"{source}: holds {source.dtype}; expected numbers")
        if not math.prod(source.shape):
            raise DataError(f"{source}: is empty, its shape is {source.shape}")
    return sources, notes


def _of_name(sources: list[Source], name: str, path: Path, key: str) -> list[Source]:
    found = [s for s in sources if name in ("", s.key) or s.key.startswith(f"{name}/")]
    if not sources:
        raise DataError(f"{key}: no array in {path}")
    if not found:
        known = ", ".join(source.key for source in sources[:10])
        raise DataError(f"{key}: no array {name!r} in {path}; there are {known}")
    return found


def split_name(path: Path) -> tuple[Path, str]:
    """Return the file and the name in it of a path FILE/NAME; "" for what is a path by itself."""
    for parent in path.parents:
        if parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return path, ""


def _list_npz(path: Path) -> Iterator[Source]:
    with open_zip(path) as archive:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                raise ValueError(f"{info.filename!r} in it is no array")
            shape, dtype = _member_header(archive, info)
            yield Source(path, info.filename.removesuffix(".npy"), shape, dtype)


def _member_header(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with archive.open(info) as member:
        shape, dtype = _read_header(member.read(MAX_HEADER_BYTES))
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes > info.file_size:
        raise ValueError(f"{info.filename!r} in it is shorter than its header says")
    if num_bytes > MAX_PACKED_BYTES:
        raise ValueError(
            f"{info.filename!r} in it has {num_bytes:,} bytes, more than {MAX_PACKED_BYTES:,}; "
            "write it as an .npy of its own"
        )
    return shape, dtype


def _read_header(content: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header of an .npy, which says itself how long it is, from the file's beginning."""
    member = io.BytesIO(content)
    version = np.lib.format.read_magic(member)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(member)
    if any(size < 0 or size > 2**48 for size in shape):
        raise ValueError(f"its shape {shape} makes no sense")
    return shape, dtype


def _mapped(path: Path) -> Array:
    """Map an .npy.

    Raises:
        ValueError: it is cut off, or holds no array.
    """
    _read_header(read_bytes(path, MAX_HEADER_BYTES, cut=True, follow_links=True))
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _list_hdf5(path: Path) -> tuple[list[Source], list[Link]]:
    sources: list[Source] = []
    links: list[Link] = []
    seen: set[int] = set()  # a hard link can lead back to where it is

    def visit(group: h5py.Group, depth: int) -> None:
        if depth > MAX_DEPTH or len(seen) > MAX_NAMES:
            raise ValueError(f"more than {MAX_DEPTH} groups in each other, or {MAX_NAMES} names")
        for name in sorted(group):
            link = group.get(name, getlink=True)
            if link is None:
                raise ValueError(f"the name {name[:80]!r} in it is damaged")
            if not isinstance(link, h5py.HardLink):
                links.append(link_of(path, group.name, name, link))
                continue
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                visit(item, depth + 1)
            elif isinstance(item, h5py.Dataset):
                refuse_elsewhere(item)
                refuse_unknown_filters(item, path)
                shape = item.shape if item.shape is not None else (0,)
                sources.append(Source(path, item.name.lstrip("/"), shape, item.dtype))

    os.close(open_regular(path, follow_links=True))  # HDF5 would wait for a pipe
    with h5py.File(path, "r") as file:
        seen.add(h5py.h5o.get_info(file.id).addr)
        visit(file, 0)
    return sources, links


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turn whatever NumPy, zipfile and HDF5 raise on a broken file into one line."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, DataError) and not isinstance(error, BoundError):
            raise
        reason = " ".join(str(error).split()).removeprefix(f"{what}: ")
        if "pickle" in reason or "Object arrays" in reason:
            reason = "Python objects, or no array at all; expected numbers"
        raise DataError(f"{what}: cannot be read ({reason}); replace or remove it") from None


class ArrayFiles:
    """Reads from sources, with a few files open at a time.

    Args:
        keep: hold whatever was read of an array in memory, as `data.preload` asks for.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._open: OrderedDict[tuple[Path, str], Any] = OrderedDict()
        self._kept: dict[Source, Array] = {}
        self._archives: dict[Path, zipfile.ZipFile] = {}
        self._checked: set[tuple[Path, str]] = set()

    def read(self, source: Source, region: Region | None = None) -> Array:
        """Return an array, or a box of it, as it is stored.

        Raises:
            DataError: the file is damaged.
        """
        with _readable(str(source)):
            if self._keep and source not in self._kept:
                self._kept[source] = np.array(self._array(source)[...])
            array = self._kept[source] if self._keep else self._array(source)
            return np.asarray(array[... if region is None else region])

    def blocks(self, source: Source) -> Iterator[Array]:
        """Give an array in blocks along its first axis, small enough for the memory."""
        if not source.shape:
            yield self.read(source)
            return
        num_rows = max(1, BLOCK_VALUES * source.shape[0] // math.prod(source.shape))
        for start in range(0, source.shape[0], num_rows):
            yield self.read(source, (slice(start, start + num_rows),))

    def _array(self, source: Source) -> Any:
        suffix = source.path.suffix.lower()
        key = (source.path, source.key if suffix == ".npz" else "")
        if key in self._open:
            self._open.move_to_end(key)
        else:
            self._open[key] = self._opened(source, suffix)
            self._close_oldest()
        opened = self._open[key]
        if not isinstance(opened, h5py.File):
            return opened
        item = opened[source.key]
        if (source.path, source.key) not in self._checked:
            check_storage(item, UNCHECKED_BYTES)
            self._checked.add((source.path, source.key))
        return item

    def _opened(self, source: Source, suffix: str) -> Any:
        if suffix == ".npz":
            return self._unpacked(source)
        return _mapped(source.path) if suffix == ".npy" else h5py.File(source.path, "r")

    def _unpacked(self, source: Source) -> Array:
        if source.path not in self._archives:
            # Kept: to read the list of members for each of them takes the square of their number.
            self._close_archives()
            self._archives[source.path] = open_zip(source.path)
        archive = self._archives[source.path]
        info = archive.getinfo(f"{source.key}.npy")
        _member_header(archive, info)
        with archive.open(info) as member:
            return np.asarray(np.lib.format.read_array(member, allow_pickle=False))

    def _close_oldest(self) -> None:
        def is_full() -> bool:
            unpacked = [a.nbytes for (_, key), a in self._open.items() if key]
            return len(self._open) > MAX_OPEN or sum(unpacked) > MAX_OPEN_BYTES

        while len(self._open) > 1 and is_full():
            _, oldest = self._open.popitem(last=False)
            if isinstance(oldest, h5py.File):
                oldest.close()

    def _close_archives(self) -> None:
        for archive in self._archives.values():
            archive.close()
        self._archives.clear()
