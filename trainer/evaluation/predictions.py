"""Writes predictions as the contract says: one HDF5 data set per image, named after its file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from trainer.data.slicing import Slice
from trainer.errors import TrainerError
from trainer.evaluation.assembly import Assembler
from trainer.evaluation.hdf5_file import ErrorKeepingFile
from trainer.output.files import make_folder
from trainer.rundir import PREDICTIONS, aside_name, hold, remove_abandoned

Floats = NDArray[np.float32]
Write = Callable[[Sequence[str], Sequence[Floats]], None]


class Receiver(Protocol):
    """Takes the network's outputs."""

    def open(self, slices: Sequence[Slice]) -> contextlib.AbstractContextManager[Write]:
        """Give a function that takes names and outputs, each (C, H, W); of slices, restored."""
        ...


@dataclass(frozen=True)
class Destination:
    """Where predictions go.

    Attributes:
        folder: of `output_1.h5`, or None.
        assembled: the file for predictions put together from slices, or None.
        is_half: 16 bits a value in that one.
    """

    folder: Path | None
    assembled: Path | None = None
    is_half: bool = False

    @contextlib.contextmanager
    def open(self, slices: Sequence[Slice]) -> Iterator[Write]:
        """Give a function that takes names and outputs, each (C, H, W); of slices, restored."""
        by_name = {entry.name: entry for entry in slices}
        with contextlib.ExitStack() as stack:
            folder = self.folder and stack.enter_context(PredictionWriter(self.folder))
            whole = self.assembled and stack.enter_context(
                Assembler(self.assembled, slices, is_half=self.is_half)
            )

            def write(names: Sequence[str], outputs: Sequence[Floats]) -> None:
                if whole:
                    whole.write(names, outputs)
                if folder and slices:
                    outputs = [
                        by_name[name].flatten(output)
                        for name, output in zip(names, outputs, strict=True)
                    ]
                if folder:
                    folder.write(names, outputs)

            yield write


class PredictionWriter:
    """Writes `<folder>/output_1.h5`; the file appears under its name only when it is whole.

    Raises:
        TrainerError: the folder cannot be made or written, or the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._path = folder / PREDICTIONS
        self._temporary = aside_name(self._path)

    def __enter__(self) -> Self:
        remove_abandoned(self._path)
        try:
            self._disk = ErrorKeepingFile(self._temporary, "x+b")
            hold(self._disk.fileno())
        except OSError as error:
            raise self._failure(error) from None
        self._file = h5py.File(self._disk, "w")
        return self

    def write(self, names: Sequence[str], outputs_NCHW: Sequence[Floats]) -> None:
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
