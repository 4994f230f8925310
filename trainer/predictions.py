"""Writes predictions as the contract says: one HDF5 data set per image, named after its file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np
from numpy.typing import NDArray

from trainer.rundir import PREDICTIONS


class PredictionWriter:
    """Writes `<folder>/output_1.h5`; the file appears under its name only when it is whole."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / PREDICTIONS
        self._temporary = folder / f".{PREDICTIONS}.{os.getpid()}.tmp"

    def __enter__(self) -> Self:
        self._file = h5py.File(self._temporary, "w")
        return self

    def write(self, names: Sequence[str], outputs_NCHW: NDArray[np.float32]) -> None:
        """Add the network's outputs (probabilities), each (C, H, W) in single precision."""
        for name, output_CHW in zip(names, outputs_NCHW, strict=True):
            self._file.create_dataset(name, data=output_CHW)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is None:
            self._temporary.replace(self._path)
        else:
            self._temporary.unlink(missing_ok=True)
