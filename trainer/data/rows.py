"""An array of which only the rows asked for are read: a set may be larger than the memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.images import Array


class LazyRows:
    """The part of an array's behaviour that training needs, with each row made when it is taken.

    Args:
        num_rows: N.
        row_shape: of each row; only rows of one shape may be taken together where others differ.
        dtype: of all.
        read: makes the row of an index.
    """

    def __init__(
        self,
        num_rows: int,
        row_shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        read: Callable[[int], Array],
    ) -> None:
        self.shape = (num_rows, *row_shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.size = math.prod(self.shape)
        self._read = read

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Array]:
        return (self._read(index) for index in range(len(self)))

    def __getitem__(self, rows: slice) -> Array:
        return self.take(np.arange(*rows.indices(len(self))))

    def take(self, indices: npt.NDArray[np.int64], axis: int = 0) -> Array:
        """Return the rows of these indices."""
        assert axis == 0
        if not len(indices):
            return np.empty((0, *self.shape[1:]), self.dtype)
        first = self._read(int(indices[0]))
        taken = np.empty((len(indices), *first.shape), self.dtype)
        taken[0] = first
        for place, index in enumerate(indices[1:], 1):
            taken[place] = self._read(int(index))
        return taken
