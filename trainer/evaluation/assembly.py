"""Puts the predictions of slices together again: `data.hdf5_outfile`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np
from numpy.typing import NDArray

from trainer.data.images import Array
from trainer.data.slicing import Slice
from trainer.errors import TrainerError
from trainer.evaluation.hdf5_file import ErrorKeepingFile
from trainer.output.files import make_folder
from trainer.rundir import aside_name, hold, remove_abandoned

Floats = NDArray[np.float32]


class Assembler:
    """Writes one data set (*covered part of the array, C) for each array and set of slices.

    The part begins where the array does and ends with the last slices: what is discarded is not
    in it. Where slices overlap, it holds the mean of their predictions; in gaps between them
    (strides above sizes), 0. Sums are kept in a file beside the result, so that
    they need not fit into memory.

    Args:
        path: the HDF5 file; it appears under its name only when it is whole.
        slices: all that will be written.
        is_half: write 16 bits a value instead of 32.

    Raises:
        TrainerError: the folder cannot be written, or the disk is full.
    """

    def __init__(self, path: Path, slices: Iterable[Slice], *, is_half: bool) -> None:
        self._path = path
        self._temporary = aside_name(path)
        self._dtype = np.float16 if is_half else np.float32
        self._slices = {entry.name: entry for entry in slices}
        self._covers = _covers(self._slices.values())
        self._sums: dict[str, Floats] = {}

    def __enter__(self) -> Self:
        make_folder(self._path.parent)
        remove_abandoned(self._path)
        return self

    def write(self, names: Sequence[str], outputs: Sequence[Array]) -> None:
        """Add predictions, each (C, *covered part), see `Slice.restore`."""
        try:
            for name, output in zip(names, outputs, strict=True):
                entry = self._slices[name]
                if entry.group not in self._sums:
                    lengths = map(len, self._covers[entry.group])
                    self._sums[entry.group] = self._new((*lengths, len(output)))
                self._sums[entry.group][entry.region] += np.moveaxis(output, 0, -1)
        except OSError as error:
            raise self._failure(error) from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
                self._temporary.replace(self._path)
        except OSError as failure:
            raise self._failure(failure) from None
        finally:
            self._temporary.unlink(missing_ok=True)
            self._sums.clear()

    def _new(self, shape: tuple[int, ...]) -> Floats:
        num_bytes = int(np.prod(shape)) * 4
        # Deleted at once: nothing is left of it whatever happens.
        with tempfile.TemporaryFile(dir=self._path.parent) as file:
            if hasattr(os, "posix_fallocate"):
                # Or a full disk would show as a bus error when a page is written.
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            return np.memmap(file, np.float32, mode="w+", shape=shape)

    def _finish(self) -> None:
        with ErrorKeepingFile(self._temporary, "x+b") as disk:
            hold(disk.fileno())
            with h5py.File(disk, "w") as file:
                for group, sums in self._sums.items():
                    result = file.create_dataset(group, sums.shape, self._dtype)
                    first, *others = self._covers[group]
                    for row, count in enumerate(first):
                        times = np.full((1,) * len(others), count, np.float32)
                        for axis, counts in enumerate(others):
                            shape = [1] * len(others)
                            shape[axis] = -1
                            times = times * counts.reshape(shape)
                        result[row] = sums[row] / np.maximum(times, 1)[..., np.newaxis]
            if disk.error is not None:
                raise disk.error

    def _failure(self, error: OSError) -> TrainerError:
        return TrainerError(f"data.hdf5_outfile: {self._path}: {error.strerror or error}")


def _covers(slices: Iterable[Slice]) -> dict[str, list[Floats]]:
    """Count for each group and axis how many slices cover each place, up to the last covered.

    Slices are a grid, so the number that covers a value is the product over its axes.
    """
    spans: dict[str, list[set[tuple[int, int]]]] = {}
    covers: dict[str, list[Floats]] = {}
    for entry in slices:
        if entry.group not in spans:
            spans[entry.group] = [set() for _ in entry.start]
            covers[entry.group] = [np.zeros(length, np.float32) for length in entry.length]
        for axis, box in enumerate(entry.region):
            if (box.start, box.stop) not in spans[entry.group][axis]:
                spans[entry.group][axis].add((box.start, box.stop))
                covers[entry.group][axis][box] += 1
    return {
        group: [
            counts[: max(stop for _, stop in found)]
            for counts, found in zip(axes, spans[group], strict=True)
        ]
        for group, axes in covers.items()
    }
