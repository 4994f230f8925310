"""Gives rows of a stored array on the device: copied batch by batch, or all of them held there."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.compute.device import to_device
from trainer.data.images import Array
from trainer.data.rows import LazyRows

CHUNK_BYTES = 2**26  # goes to the device at once: a mapped set need not fit into host memory


class RowSource:
    """The rows of an array, or crops of them.

    A place is a row's index, (N,), or of a crop the index and where it begins, (N, 3): row of
    the array, then row and column of its first pixel.

    Args:
        values: (M, …), read-only.
        device: where rows are wanted.
        crop: height and width of each crop; None for whole rows.
    """

    def __init__(
        self, values: Array | LazyRows, device: torch.device, crop: tuple[int, int] | None = None
    ) -> None:
        self._values = values
        self._device = device
        self._crop = crop
        self._resident: Tensor | None = None
        is_float = values.dtype.kind == "f"
        self.full_scale = 1.0 if is_float else float(np.iinfo(values.dtype).max)
        # torch indexes no uint16
        self._dtype = np.dtype(values.dtype if is_float or values.dtype == np.uint8 else np.int32)
        self.nbytes = values.size * self._dtype.itemsize

    @property
    def is_resident(self) -> bool:
        """Whether the device holds the array as a whole."""
        return self._resident is not None

    def move_to_device(self) -> None:
        """Hold the array there from now on."""
        num_rows = max(1, CHUNK_BYTES * len(self._values) // max(1, self.nbytes))
        dtype = torch.from_numpy(np.empty(0, self._dtype)).dtype
        resident = torch.empty(self._values.shape, dtype=dtype, device=self._device)
        for start in range(0, len(self._values), num_rows):
            # A copy, because torch shares memory and a mapped array is read-only.
            chunk = np.array(self._values[start : start + num_rows], dtype=self._dtype)
            resident[start : start + num_rows] = torch.from_numpy(chunk)
        self._resident = resident

    def pick(self, places: NDArray[np.int64]) -> Tensor:
        """Return what `take` makes rows of: read here, or where they are on the device."""
        return to_device(places if self.is_resident else self._read(places), self._device)

    def take(self, picked: Tensor) -> Tensor:
        """Return the rows, without a word from the host."""
        if self._resident is None:
            return picked
        if self._crop is None:
            return self._resident[picked]
        height, width = (torch.arange(size, device=picked.device) for size in self._crop)
        index, top, left = picked.view(-1, 3, 1, 1).unbind(1)
        return self._resident[index, top + height.view(1, -1, 1), left + width.view(1, 1, -1)]

    def between(self, start: int, stop: int) -> Tensor:
        """Return whole rows that follow each other."""
        if self._resident is not None:
            return self._resident[start:stop]
        rows = self._values.take(np.arange(start, stop), axis=0)
        return to_device(rows.astype(self._dtype, copy=False), self._device)

    def _read(self, places: NDArray[np.int64]) -> Array:
        if self._crop is None:
            rows = self._values.take(places, axis=0)
        else:  # a mapped array is read there only
            assert not isinstance(self._values, LazyRows)  # tiles are for images
            height, width = self._crop
            rows = np.stack(
                [
                    self._values[index, row : row + height, column : column + width]
                    for index, row, column in places.tolist()
                ]
            )
        return rows.astype(self._dtype, copy=False)
