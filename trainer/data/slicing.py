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
        start: the place of its first value in the array; one number for each axis but channels.
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
    def has_channels(self) -> bool:
        """Whether the array has an axis of channels, the first one."""
        return len(self.source.shape) > len(self.start)

    @property
    def length(self) -> tuple[int, ...]:
        """The array's length along each axis but the channels'."""
        return self.source.shape[-len(self.start) :]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in which it reaches the network, after an axis of channels if there is one."""
        channels = self.source.shape[:1] if self.has_channels else ()
        return (*channels, *self.slicer.sample_shape)

    @property
    def region(self) -> Region:
        """The part of the array that the slice covers; less than its size at the array's end."""
        return tuple(
            slice(first, min(first + size, length))
            for first, size, length in zip(self.start, self.slicer.sizes, self.length, strict=True)
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

    def cut(
        self,
        read: Callable[[Source, Region], Array],
        fill: float,
        *,
        has_channels: bool | None = None,
    ) -> Array:
        """Return the slice as the network gets it, padded with `fill`.

        Args:
            read: gives a box of the array, or of its target.
            fill: what stands in the padding.
            has_channels: of what is read; as the array itself if not given.
        """
        has_channels = self.has_channels if has_channels is None else has_channels
        every = (slice(None),) if has_channels else ()
        values = read(self.source, (*every, *self.region))
        channels = values.shape[:1] if has_channels else ()
        padded = np.full((*channels, *self.slicer.padded), fill, values.dtype)
        padded[(*every, *self._inner)] = values
        shape = self.slicer.sample_shape
        if self.slicer.transpose:
            return padded.reshape(*channels, *shape[::-1]).swapaxes(-1, -2)
        return padded.reshape(*channels, *shape)

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
        num_channels_axes = len(source.shape) - len(slicer.sizes)
        if num_channels_axes not in (0, 1):
            raise DataError(
                f"{source}: has the shape {source.shape}, and data.slicers[{position - 1}].sizes "
                f"{len(slicer.sizes)} numbers; expected one for each axis, but for a first one of "
                "channels"
            )
        lengths = source.shape[num_channels_axes:]
        group = slicer.name or f"slices_{position}"
        prefix = f"{group}/" if len(slicers) > 1 else ""
        if len(sources) > 1:
            label = source.path.name + (f"/{source.key}" if source.key else "")
            group, prefix = f"{label}/{group}", f"{label}/{prefix}"
        grid = [
            starts(length, size, stride, discard=slicer.discard_remainders)
            for length, size, stride in zip(lengths, slicer.sizes, slicer.steps, strict=True)
        ]
        if not all(grid):
            raise DataError(
                f"{source}: its shape {source.shape} is below data.slicers[{position - 1}].sizes "
                f"{list(slicer.sizes)}; set smaller sizes, or discard_remainders to false"
            )
        for start in itertools.product(*grid):
            slices.append(Slice(source, slicer, group, start, prefix))
    return slices
