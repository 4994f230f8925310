"""Writes predictions as the contract says: one HDF5 data set per image, named after its file."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from trainer.errors import TrainerError
from trainer.outputs import make_folder
from trainer.rundir import PREDICTIONS

if TYPE_CHECKING:
    from typing_extensions import Buffer


class PredictionWriter:
    """Writes `<folder>/output_1.h5`; the file appears under its name only when it is whole.

    Raises:
        TrainerError: the folder cannot be made or written, or the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._path = folder / PREDICTIONS
        self._temporary = folder / f".{PREDICTIONS}.{os.getpid()}.tmp"

    def __enter__(self) -> Self:
        try:
            self._disk = _PatientFile(self._temporary, "w+b")
        except OSError as error:
            raise self._failure(error) from None
        self._file = h5py.File(self._disk, "w")
        return self

    def write(self, names: Sequence[str], outputs_NCHW: NDArray[np.float32]) -> None:
        """Add the network's outputs (probabilities), each (C, H, W) in single precision."""
        for name, output_CHW in zip(names, outputs_NCHW, strict=True):
            self._file.create_dataset(name, data=output_CHW)
        self._check()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()  # writes what HDF5 kept back
            self._disk.close()
            if kind is None:
                self._check()
                self._temporary.replace(self._path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def _check(self) -> None:
        if self._disk.error is not None:
            raise self._failure(self._disk.error)

    def _failure(self, error: OSError) -> TrainerError:
        return TrainerError(f"{self._path}: predictions cannot be written ({error.strerror})")


class _PatientFile(io.FileIO):
    """A file that keeps its first error for later: HDF5 crashes the process when a write fails."""

    error: OSError | None = None

    def write(self, data: Buffer) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = self.error or error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0
