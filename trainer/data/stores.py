"""Where arrays are collected row by row: in memory, or in .npy files to be mapped.

Files are written, not mapped, while they grow: a full disk is then an error and no SIGBUS, and
the pages are the kernel's, not this process's.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from trainer.data.images import Array

# What is read back on each opening to find damage: all of a small set, as many evenly spaced
# rows of a large one. 64 MiB take less than 0.1 s.
CHECK_BYTES = 2**26


class Store(Protocol):
    """Collects arrays under names. A row of a wider type widens its array."""

    def expect(self, num_bytes: int) -> None:
        """Make room for this much in all, before the first array."""
        ...

    def start(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Begin an array of this final shape."""
        ...

    def append(self, name: str, row: Array) -> None:
        """Add the next row."""
        ...

    def rows(self, name: str) -> Iterator[Array]:
        """Give the rows of a complete array."""
        ...

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type that an array has by now."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a complete array another name."""
        ...

    def drop(self, name: str) -> None:
        """Forget an array."""
        ...


class MemoryStore:
    """Keeps arrays in memory."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}
        self._num_rows: dict[str, int] = {}

    def expect(self, num_bytes: int) -> None:
        """Do nothing: the allocation itself will say whether there is room."""

    def start(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Allocate the array."""
        self.arrays[name] = np.empty(shape, dtype)
        self._num_rows[name] = 0

    def append(self, name: str, row: Array) -> None:
        """Add the next row."""
        array = self.arrays[name]
        wider = np.result_type(array.dtype, row.dtype)
        if wider != array.dtype:
            array = self.arrays[name] = array.astype(wider)
        array[self._num_rows[name]] = row
        self._num_rows[name] += 1

    def rows(self, name: str) -> Iterator[Array]:
        """Give the rows of a complete array."""
        return iter(self.arrays[name])

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type that an array has by now."""
        return self.arrays[name].dtype

    def rename(self, old: str, new: str) -> None:
        """Give a complete array another name."""
        self.arrays[new] = self.arrays.pop(old)

    def drop(self, name: str) -> None:
        """Free an array."""
        del self.arrays[name]


@dataclass
class _Growing:
    file: BinaryIO
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stride: int
    num_rows: int = 0
    checks: list[int] = field(default_factory=list)


class FileStore:
    """Writes each array to NAME.npy in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays: dict[str, _Growing] = {}

    def expect(self, num_bytes: int) -> None:
        """Do nothing; see `trainer.data.cache` for a store that does."""

    def start(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Write the head of the file."""
        file = array_file(self._folder, name).open("wb")
        header = np.lib.format.header_data_from_array_1_0(np.empty(0, dtype))
        np.lib.format.write_array_header_1_0(file, {**header, "shape": shape})
        num_bytes = int(np.prod(shape)) * dtype.itemsize
        stride = -(-num_bytes // CHECK_BYTES)
        self._arrays[name] = _Growing(file, shape, dtype, stride)

    def append(self, name: str, row: Array) -> None:
        """Write the next row."""
        array = self._arrays[name]
        wider = np.result_type(array.dtype, row.dtype)
        if wider != array.dtype:
            self._widen(name, wider)
            array = self._arrays[name]
        row = np.ascontiguousarray(row, array.dtype)
        if array.num_rows % array.stride == 0:
            array.checks.append(zlib.crc32(row.data))
        array.file.write(row.data)
        array.num_rows += 1

    def rows(self, name: str) -> Iterator[Array]:
        """Read row after row: mapped pages would count as this process's memory."""
        array = self._arrays[name]
        array.file.flush()
        row_shape = array.shape[1:]
        num_values = int(np.prod(row_shape))
        with array_file(self._folder, name).open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            for _ in range(array.num_rows):
                data = file.read(num_values * array.dtype.itemsize)
                yield np.frombuffer(data, array.dtype).reshape(row_shape)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type that an array has by now."""
        return self._arrays[name].dtype

    def rename(self, old: str, new: str) -> None:
        """Rename the file."""
        array_file(self._folder, old).rename(array_file(self._folder, new))
        self._arrays[new] = self._arrays.pop(old)

    def drop(self, name: str) -> None:
        """Delete the file."""
        self._arrays.pop(name).file.close()
        array_file(self._folder, name).unlink()

    def finish(self) -> dict[str, dict[str, Any]]:
        """Close all files and return what `open_array` needs to trust them.

        Raises:
            OSError: the disk is full.
        """
        entries = {}
        for name, array in self._arrays.items():
            assert array.num_rows == array.shape[0], name
            array.file.flush()
            if array.stride > 1:
                # What is checked in full on each opening needs no waiting for the disk: a loss
                # of power shows there.
                os.fsync(array.file.fileno())
            array.file.close()
            entries[name] = {
                "num_bytes": array_file(self._folder, name).stat().st_size,
                "stride": array.stride,
                "checks": array.checks,
            }
        return entries

    def close(self) -> None:
        """Close all files, complete or not."""
        for array in self._arrays.values():
            array.file.close()

    def _widen(self, name: str, dtype: np.dtype[Any]) -> None:
        old = self._arrays[name]
        narrow = f"{name}_narrow"
        self.rename(name, narrow)
        self.start(name, old.shape, dtype)
        for row in self.rows(narrow):
            self.append(name, row.astype(dtype))
        self.drop(narrow)


def array_file(folder: Path, name: str) -> Path:
    """Return the file of an array."""
    return folder / f"{name}.npy"


def open_array(folder: Path, name: str, entry: dict[str, Any], *, check: bool) -> Array:
    """Map a file for reading.

    Raises:
        OSError, ValueError: it is missing, of another size than it was written with, or damaged.
    """
    path = array_file(folder, name)
    # Reading mapped pages behind a file's end would kill the process.
    if path.stat().st_size != entry["num_bytes"]:
        raise ValueError(f"{path}: truncated")
    array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    if check:
        found = [zlib.crc32(array[row].data) for row in range(0, len(array), entry["stride"])]
        if found != entry["checks"]:
            raise ValueError(f"{path}: damaged")
    return array
