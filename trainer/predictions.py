"""Writes predictions as the contract says: one HDF5 data set per image, named after its file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np
from numpy.typing import NDArray

from trainer.errors import TrainerError
from trainer.outputs import make_folder
from trainer.rundir import PREDICTIONS


class PredictionWriter:
    """Writes `<folder>/output_1.h5`; the file appears under its name only when it is whole."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._path = folder / PREDICTIONS
        self._temporary = folder / f".{PREDICTIONS}.{os.getpid()}.tmp"

    def __enter__(self) -> Self:
        with self._write_errors_named():
            self._file = h5py.File(self._temporary, "w")
        return self

    def write(self, names: Sequence[str], outputs_NCHW: NDArray[np.float32]) -> None:
        """Add the network's outputs (probabilities), each (C, H, W) in single precision."""
        with self._write_errors_named():
            for name, output_CHW in zip(names, outputs_NCHW, strict=True):
                self._file.create_dataset(name, data=output_CHW)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._write_errors_named():
                self._file.close()  # writes what was kept back
                if kind is None:
                    self._temporary.replace(self._path)
        finally:
            self._temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _write_errors_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # HDF5's texts run over lines and addresses
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
            raise TrainerError(
                f"{self._path}: predictions cannot be written "
                f"({reason or str(error).splitlines()[0]})"
            ) from None
