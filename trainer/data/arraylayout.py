"""Finds out how arrays hold samples: where the channels are, and whether all are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.data.arrays import MAX_VALUES
from trainer.data.geometry import final_size
from trainer.data.pairing import Sample
from trainer.data.transforms import Steps
from trainer.errors import DataError

MAX_COLOURS = 4

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ArrayLayout:
    """Where the channels of inputs are, and the shape in which the network gets a sample."""

    row_shape: Shape
    channel_axis: int | None  # 0 or -1; None: there is none
    is_sized: bool  # the transforms give samples of any size this one
    channels_first: bool | None = None  # as the config says it
    may_differ: bool = False  # targets may have another size than inputs
    is_mask: bool = False  # targets are said to hold classes

    @classmethod
    def find(
        cls,
        sample: Sample,
        wanted: tuple[int | None, ...],
        channels_first: bool | None,
        steps: Steps,
        *,
        may_differ: bool = False,
        is_mask: bool = False,
    ) -> ArrayLayout:
        """Decide by the first sample and the network.

        Raises:
            DataError: the shape fits the network in no way, or in two.
        """
        rank, channels = len(wanted) - 1, wanted[-1]
        shape = _shape_of(sample)
        axis: int | None = None
        if sample.slice is not None and len(shape) == rank + 1:
            axis = 0
        elif len(shape) == rank + 1:
            fits_last, fits_first = shape[-1] == channels, shape[0] == channels
            if channels_first is None and fits_last and fits_first:
                raise DataError(
                    f"{sample.input}: its shape {shape} has {channels} at both ends; set "
                    "data.channels_first to say which one is the channels"
                )
            is_first = fits_first and not fits_last if channels_first is None else channels_first
            axis = 0 if is_first else -1
        elif len(shape) != rank or channels not in (1, None):
            raise DataError(_misfit(sample, shape, wanted))
        spatial = {None: shape, 0: shape[1:], -1: shape[:-1]}[axis]
        found = 1 if axis is None else shape[axis]
        if channels not in (found, None):
            raise DataError(_misfit(sample, shape, wanted))
        size_HW = final_size(steps.reading)
        row_shape = (*(size_HW or spatial), found)
        is_sized = size_HW is not None
        return cls(row_shape, axis, is_sized, channels_first, may_differ, is_mask)

    def size_of(self, sample: Sample) -> Shape:
        """Return the size in which the network gets a sample, without channels."""
        return self.row_shape[:-1] if self.is_sized else self.split(_shape_of(sample))[0]

    def check(self, sample: Sample) -> None:
        """Refuse a sample of another shape than the first one; slices may differ in size."""
        shape = _shape_of(sample)
        spatial, channels = self.split(shape)
        is_free = self.is_sized or sample.slice is not None
        if (
            channels != self.row_shape[-1]
            or len(spatial) != len(self.row_shape) - 1
            or (not is_free and spatial != self.row_shape[:-1])
        ):
            raise DataError(
                f"{sample.input}: its shape {shape} gives samples of {(*spatial, channels)}, "
                f"others {self.row_shape}; make them equal, or cut them up by data.slicers"
            )
        if sample.target is None:
            return
        if sample.slice is not None:
            expected = sample.slice.length
            fits = sample.target.shape in (expected, (1, *expected))
        else:
            expected, shape = spatial, sample.target.shape
            fits = shape in (expected, (*expected, 1), (1, *expected))
        if not fits and not self._holds_several(sample):
            size, num_channels = self.split_target(sample)
            fits = len(size) == len(expected) and (
                (size == expected and not self.is_mask)
                or (
                    self.may_differ
                    and sample.slice is None
                    and (num_channels == 1 or not self.is_mask)
                )
            )
        if not fits:
            raise DataError(
                f"{sample.target}: its shape is {sample.target.shape}, that of its input "
                f"{sample.input.path.name} {sample.input.shape}; expected {expected}"
                + (_one_is_one(sample) if self._holds_several(sample) else "")
            )

    def _holds_several(self, sample: Sample) -> bool:
        """Say whether input and target have one more axis, of the same length, than a mask has."""
        assert sample.target is not None
        shapes = sample.input.shape, sample.target.shape
        rank = len(self.row_shape) - 1
        is_one_more = sample.slice is None and [*map(len, shapes)] == [rank + 1] * 2
        return is_one_more and shapes[0][0] == shapes[1][0] > MAX_COLOURS

    def split_target(self, sample: Sample) -> tuple[Shape, int]:
        """Return the size of a target, and how many channels it has; see `target_axis`."""
        assert sample.target is not None
        shape, axis = sample.target.shape, self.target_axis(sample)
        if axis is None:
            return shape, 1
        return (shape[1:], shape[0]) if axis == 0 else (shape[:-1], shape[-1])

    def target_axis(self, sample: Sample) -> int | None:
        """Return where a target's channels are, 0 or -1; None where it has no such axis."""
        assert sample.target is not None
        shape = sample.target.shape
        if sample.slice is not None:
            return 0 if len(shape) > len(sample.slice.start) else None
        if len(shape) != len(self.row_shape):
            return None
        if self.channels_first is not None:
            return 0 if self.channels_first else -1
        size = self.split(sample.input.shape)[0]
        is_first, is_last = shape[1:] == size, shape[:-1] == size
        if is_first != is_last:
            return 0 if is_first else -1
        if self.channel_axis is not None:
            return self.channel_axis
        return 0 if shape[0] <= MAX_COLOURS < shape[-1] else -1

    def split(self, shape: Shape) -> tuple[Shape, int]:
        if self.channel_axis is None or not shape:
            return shape, 1
        if self.channel_axis == 0:
            return shape[1:], shape[0]
        return shape[:-1], shape[-1]


def _shape_of(sample: Sample) -> Shape:
    shape = sample.input.shape if sample.slice is None else sample.slice.shape
    if np.prod(shape, dtype=object) > MAX_VALUES:
        raise DataError(f"{sample.input}: {shape} are too many values for one sample")
    return shape


def _misfit(sample: Sample, shape: Shape, wanted: tuple[int | None, ...]) -> str:
    text = ["any" if size is None else str(size) for size in wanted]
    last, first = ", ".join(text), ", ".join([text[-1], *text[:-1]])
    what = "slices have" if sample.slice is not None else "its shape is"
    hint = _one_is_one(sample) if sample.slice is None and _is_one_more(shape, wanted) else ""
    return (
        f"{sample.input}: {what} {shape}; the network takes ({last}), or channels first ({first})"
        f"{hint}"
    )


def _one_is_one(sample: Sample) -> str:
    """Say how to give several samples, to who has put them into one array."""
    shape, suffix = sample.input.shape, sample.input.path.suffix.lower()
    how = "under the same names in both files"
    if suffix in (".npy", ".npz"):
        how = "numpy.savez('file.npz', **{f'{i:05d}': a for i, a in enumerate(array)})"
    return (
        f"; one array is one sample, and {shape} looks like {shape[0]} of them: write each as an "
        f"array of its own, inputs and targets alike: {how}"
    )


def _is_one_more(shape: Shape, wanted: tuple[int | None, ...]) -> bool:
    """Say whether a shape is that of several samples behind each other, (N, *one)."""

    def fits(found: Shape, expected: tuple[int | None, ...]) -> bool:
        return len(found) == len(expected) and all(
            size in (length, None) for length, size in zip(found, expected, strict=True)
        )

    spatial, channels = wanted[:-1], wanted[-1:]
    # Few at either end are colours rather than samples.
    is_gray = min(shape[:1] + shape[-1:], default=0) > MAX_COLOURS and channels == (1,)
    one = shape[1:]
    return (is_gray and fits(one, spatial)) or any(
        fits(one, each) for each in (wanted, (*channels, *spatial))
    )
