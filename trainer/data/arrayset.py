"""Gives the numpy and HDF5 data of a config: paired by name, surveyed, read when it is needed.

Inputs are taken as they are, as float32, with no scaling. A sample has the network's shape,
(*spatial, C); (C, *spatial) and, for one channel, (*spatial) are fine too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.config import Data
from trainer.data.arrays import MAX_VALUES, ArrayFiles, Source
from trainer.data.geometry import final_size, read_through
from trainer.data.images import Array
from trainer.data.pairing import Sample
from trainer.data.rows import LazyRows
from trainer.data.slicing import Slice
from trainer.data.survey import MaskCoding, decide_coding
from trainer.data.transforms import FLIPS, WARPS, Steps, check_normalize, plan_transforms
from trainer.errors import ConfigError, DataError

# Padding of class ids: no class, as ids end at 63 (see trainer.data.survey), and uint8.
PAD_ID = 255
MAX_COLOURS = 4
MAX_DISTINCT = 2**16  # values; integers beyond that are no classes

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Wanted:
    """What the rest of the config wants of arrays.

    Attributes:
        shape: the network's input (*spatial, C) without batch; None where it is open.
        is_regression: float targets are values, even where they are whole numbers.
        pad_id: the class id that counts nowhere, for what slices have beyond their array.
    """

    shape: tuple[int | None, ...] = (None, None, None)
    is_regression: bool = False
    pad_id: int = PAD_ID


@dataclass(frozen=True)
class ArrayCoding(MaskCoding):
    """As for masks; continuous targets are taken as they are."""

    def describe(self) -> str:
        """Say in one line what the targets hold."""
        if self.kind == "continuous":
            return "of the targets: continuous, taken as they are"
        return super().describe()


@dataclass(frozen=True)
class ArrayPart:
    """The training or the test samples, as `trainer.data.dataset.ImageSet` takes them."""

    samples: tuple[Sample, ...]
    inputs: LazyRows
    targets: LazyRows | None


def load_parts(
    parts: dict[str, list[Sample]],
    data: Data,
    wanted: Wanted,
) -> tuple[dict[str, ArrayPart], ArrayCoding | None]:
    """Prepare samples for reading.

    Args:
        parts: what `list_part` found for "train" and "test".
        data: the section of the config.
        wanted: what the rest of the config says of them.

    Raises:
        DataError: a shape that does not fit, targets that are no classes, a broken file.
        ConfigError: a transform that has no meaning for arrays, or for volumes.
    """
    _check_transforms(data, len(wanted.shape) - 1)
    steps = plan_transforms(data)
    files = ArrayFiles(keep=data.preload)
    everything = [sample for part in parts.values() for sample in part]
    layout = _Layout.find(everything[0], wanted.shape, data.channels_first, steps[0])
    check_normalize(data, layout.row_shape[-1])
    for sample in everything:
        layout.check(sample)
    coding = _survey(everything, data, files, is_regression=wanted.is_regression)
    is_continuous = coding is not None and coding.kind == "continuous"
    fill = 0 if is_continuous else wanted.pad_id
    id_dtype = np.uint8 if 0 <= fill <= 255 else np.int32
    target_dtype = np.float32 if is_continuous else id_dtype
    loaded = {}
    for name, samples in parts.items():
        reader = _Reader(tuple(samples), files, layout, steps, coding, fill, id_dtype)
        spatial = layout.row_shape[:-1]
        has_targets = samples[0].target is not None
        loaded[name] = ArrayPart(
            tuple(samples),
            LazyRows(len(samples), layout.row_shape, np.float32, reader.input),
            LazyRows(len(samples), spatial, target_dtype, reader.target) if has_targets else None,
        )
    return loaded, coding


def _check_transforms(data: Data, rank: int) -> None:
    flat_only = ("resize", "center_crop", "rotate", *WARPS)
    everywhere = (*FLIPS, "normalize")
    for key in ("transforms", "input_transforms", "target_transforms"):
        for index, entry in enumerate(getattr(data, key)):
            (name,) = entry.model_fields_set
            if name in everywhere or (rank == 2 and name in flat_only):
                continue
            why = f"{name} is for images of 8 or 16 bits"
            if name in flat_only:
                why = f"{name} is for samples of two dimensions, and these have {rank}"
            allowed = ", ".join(everywhere if rank != 2 else (*everywhere, *flat_only))
            raise ConfigError(f"data.{key}[{index}]: {why}; here: {allowed}")


@dataclass(frozen=True)
class _Layout:
    """Where the channels of inputs are, and the shape in which the network gets a sample."""

    row_shape: Shape
    channel_axis: int | None  # 0 or -1; None: there is none
    is_sized: bool  # the transforms give samples of any size this one

    @classmethod
    def find(
        cls,
        sample: Sample,
        wanted: tuple[int | None, ...],
        channels_first: bool | None,
        steps: Steps,
    ) -> _Layout:
        """Decide by the first sample and the network.

        Raises:
            DataError: the shape fits the network in no way, or in two.
        """
        rank, channels = len(wanted) - 1, wanted[-1]
        shape = _shape_of(sample)
        axis: int | None = None
        if len(shape) == rank + 1 and sample.slice is None:
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
        return cls((*(size_HW or spatial), found), axis, size_HW is not None)

    def check(self, sample: Sample) -> None:
        """Refuse a sample of another shape than the first one."""
        shape = _shape_of(sample)
        spatial, channels = self.split(shape)
        if channels != self.row_shape[-1] or (
            not self.is_sized and spatial != self.row_shape[:-1]
        ):
            raise DataError(
                f"{sample.input}: its shape {shape} gives samples of {(*spatial, channels)}, "
                f"others {self.row_shape}; make them equal, or cut them up by data.slicers"
            )
        if sample.target is None:
            return
        if sample.slice is not None:
            expected = sample.input.shape
            fits = sample.target.shape == expected
        else:
            expected, shape = spatial, sample.target.shape
            fits = shape in (expected, (*expected, 1), (1, *expected))
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
        is_one_more = sample.slice is None and len(shapes[1]) == rank + 1
        return is_one_more and shapes[0][0] == shapes[1][0] > MAX_COLOURS

    def split(self, shape: Shape) -> tuple[Shape, int]:
        if self.channel_axis is None or not shape:
            return shape, 1
        if self.channel_axis == 0:
            return shape[1:], shape[0]
        return shape[:-1], shape[-1]


def _shape_of(sample: Sample) -> Shape:
    shape = sample.input.shape if sample.slice is None else sample.slice.slicer.sample_shape
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


def _survey(
    samples: Iterable[Sample], data: Data, files: ArrayFiles, *, is_regression: bool
) -> ArrayCoding | None:
    """Read all targets once and decide what their values mean."""
    targets = {sample.target: None for sample in samples if sample.target is not None}
    if not targets:
        return None
    counts: Counter[int] = Counter()
    continuous = ArrayCoding("continuous", 0, (), {})
    for target in targets:
        if is_regression and target.dtype.kind == "f":
            return continuous
        for block in files.blocks(target):
            values, numbers = np.unique(block, return_counts=True)
            odd = values[~np.isfinite(values) | (values != np.trunc(values))]
            if len(odd) and not data.target_is_mask and np.isfinite(odd).all():
                return continuous
            if len(odd):
                raise DataError(f"{target}: holds {odd[0]:g}; expected a class in each place")
            whole = values.astype(np.int64)
            counts.update(dict(zip(whole.tolist(), numbers.tolist(), strict=True)))
        if min(counts) < 0 and not data.target_is_mask:
            return continuous
        if min(counts) < 0:
            raise DataError(f"{target}: holds {min(counts)}; expected classes from 0")
        if len(counts) > MAX_DISTINCT and not data.target_is_mask:
            return continuous
    coding = decide_coding(
        counts,
        where=data.target_path or data.test_target_path or "targets",
        mask_values=data.mask_values,
        mask_threshold=data.mask_threshold,
        continuous_allowed=not data.target_is_mask,
    )
    return ArrayCoding(coding.kind, coding.num_classes, coding.values, coding.counts)


@dataclass(frozen=True)
class _Reader:
    """Makes the rows of a part."""

    samples: tuple[Sample, ...]
    files: ArrayFiles
    layout: _Layout
    steps: tuple[Steps, Steps]
    coding: ArrayCoding | None
    fill: int
    id_dtype: npt.DTypeLike

    def input(self, index: int) -> Array:
        """Return (*spatial, C) float32.

        Raises:
            DataError: NaN, infinity, or a number beyond float32.
        """
        sample = self.samples[index]
        values = self._read(sample.input, sample.slice, 0)
        with np.errstate(over="ignore"):
            values = np.asarray(values, np.float32)
        _refuse_not_finite(values, sample.input, sample.name)
        if self.layout.channel_axis is None:
            values = values[..., np.newaxis]
        elif self.layout.channel_axis == 0:
            values = np.moveaxis(values, 0, -1)
        return self._through(values, sample.input, 0, nearest=False)

    def target(self, index: int) -> Array:
        """Return (*spatial): class ids, with `fill` where a slice is padded; or float32."""
        sample = self.samples[index]
        assert sample.target is not None
        assert self.coding is not None
        encode: Callable[[Array], Array] | None = None
        if self.coding.kind != "continuous":
            # Before padding: a padded value is no class.
            encode = self.coding.encode
        values = self._read(sample.target, sample.slice, self.fill, encode)
        if sample.slice is None:
            values = values.reshape(self.layout.split(sample.input.shape)[0])
        if encode is None:
            values = np.asarray(values, np.float32)
            _refuse_not_finite(values, sample.target, sample.name)
        return self._through(values, sample.target, 1, nearest=encode is not None)

    def _through(self, values: Array, source: Source, which: int, *, nearest: bool) -> Array:
        try:
            return read_through(
                np.ascontiguousarray(values), self.steps[which].reading, nearest=nearest
            )
        except DataError as error:
            raise DataError(f"{source}: {error}") from None

    def _read(
        self,
        source: Source,
        box: Slice | None,
        fill: int,
        encode: Callable[[Array], Array] | None = None,
    ) -> Array:
        def read(_: Source, region: tuple[slice, ...] | None) -> Array:
            values = self.files.read(source, region)
            if encode is None:
                return values
            return encode(values.astype(np.int64)).astype(self.id_dtype)

        return read(source, None) if box is None else box.cut(read, fill)


def _refuse_not_finite(values: Array, source: Source, name: str) -> None:
    if not np.isfinite(values).all():
        where = f" (sample {name})" if name not in (source.path.name, source.key) else ""
        raise DataError(
            f"{source}{where}: holds NaN, infinity or numbers beyond float32; replace them"
        )
