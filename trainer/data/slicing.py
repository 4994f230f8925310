"""Cuts an array into the samples of `data.slicers`, and finds the way back for predictions.

Along each axis slices start at 0, stride, 2 stride, … until the axis is covered; what reaches
beyond its end is padded, or left out with `discard_remainders`. Padding lies around a slice (of
an odd amount, the larger part behind it) and is zeros, never a neighbour's values.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.config import Slicer
from trainer.data.arrays import Region, Source
from trainer.data.images import Array
from trainer.errors import DataError


def starts(length: int, size: int, stride: int, *, discard: bool) -> list[int]:
    """Return where slices start along one axis."""
    if discard:
        return list(range(0, length - size + 1, stride))
    first = [0]
    while first[-1] + size < length and first[-1] + stride < length:
        first.append(first[-1] + stride)
    return first


@dataclass(frozen=True)
class Slice:
    """One slice of an array.

    Attributes:
        source: the array.
        slicer: how it is cut.
        group: the data set of `hdf5_outfile` that its prediction belongs to.
        start: the place of its first value in the array; one number for each axis.
        prefix: starts its name, where there are several sets or arrays.
    """

    source: Source
    slicer: Slicer
    group: str
    start: tuple[int, ...]
    prefix: str

    @property
    def name(self) -> str:
        """How logs and predictions call it, such as "0:64,0:576,0:992"."""
        return self.prefix + ",".join(f"{box.start}:{box.stop}" for box in self.region)

    @property
    def region(self) -> Region:
        """The part of the array that the slice covers; less than its size at the array's end."""
        return tuple(
            slice(first, min(first + size, length))
            for first, size, length in zip(
                self.start, self.slicer.sizes, self.source.shape, strict=True
            )
        )

    @property
    def _inner(self) -> Region:
        """Where the covered part lies within the padded slice."""
        return tuple(
            slice(before := (padded - size) // 2, before + box.stop - box.start)
            for padded, size, box in zip(
                self.slicer.padded, self.slicer.sizes, self.region, strict=True
            )
        )

    def cut(self, read: Callable[[Source, Region], Array], fill: float) -> Array:
        """Return the slice as the network gets it, padded with `fill`."""
        values = read(self.source, self.region)
        padded = np.full(self.slicer.padded, fill, values.dtype)
        padded[self._inner] = values
        shape = self.slicer.sample_shape
        return padded.reshape(shape[::-1]).T if self.slicer.transpose else padded.reshape(shape)

    def restore(self, output: Array) -> Array:
        """Return a prediction (C, *sample shape) as (C, *covered part of the array)."""
        if self.slicer.transpose:
            output = output.swapaxes(1, 2)
        boxes = (slice(None), *self._inner)
        return output.reshape(len(output), *self.slicer.padded)[boxes]

    def flatten(self, output: Array) -> Array:
        """Drop the axes that the network did not see from what `restore` returned."""
        sizes = zip(output.shape[1:], self.slicer.sizes, strict=True)
        return output.reshape(len(output), *(length for length, size in sizes if size > 1))


def cut_up(sources: Sequence[Source], slicers: Sequence[Slicer]) -> list[Slice]:
    """Return all slices of all arrays, set after set.

    Raises:
        DataError: an array with another number of axes than `sizes`, or smaller than a slice
            where remainders are discarded.
    """
    slices = []
    for (position, slicer), source in itertools.product(enumerate(slicers, 1), sources):
        if len(source.shape) != len(slicer.sizes):
            raise DataError(
                f"{source}: has the shape {source.shape}, and data.slicers[{position - 1}].sizes "
                f"{len(slicer.sizes)} numbers; expected one for each axis, and no channels"
            )
        group = slicer.name or f"slices_{position}"
        prefix = f"{group}/" if len(slicers) > 1 else ""
        if len(sources) > 1:
            label = source.path.name + (f"/{source.key}" if source.key else "")
            group, prefix = f"{label}/{group}", f"{label}/{prefix}"
        grid = [
            starts(length, size, stride, discard=slicer.discard_remainders)
            for length, size, stride in zip(source.shape, slicer.sizes, slicer.steps, strict=True)
        ]
        if not all(grid):
            raise DataError(
                f"{source}: its shape {source.shape} is below data.slicers[{position - 1}].sizes "
                f"{list(slicer.sizes)}; set smaller sizes, or discard_remainders to false"
            )
        for start in itertools.product(*grid):
            slices.append(Slice(source, slicer, group, start, prefix))
    return slices
