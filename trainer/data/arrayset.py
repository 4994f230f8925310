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
from trainer.data.arraylayout import ArrayLayout
from trainer.data.arrays import ArrayFiles, Source
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
MAX_DISTINCT = 2**16  # values; integers beyond that are no classes


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
            channels = f", {self.num_channels} channels" if self.num_channels > 1 else ""
            return f"continuous{channels}, taken as they are"
        return super().describe()


@dataclass(frozen=True)
class ArrayPart:
    """The training or the test samples, as `trainer.data.dataset.ImageSet` takes them."""

    samples: tuple[Sample, ...]
    inputs: LazyRows
    targets: LazyRows | None
    sizes: tuple[tuple[int, ...], ...] = ()


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
    layout = ArrayLayout.find(
        everything[0],
        wanted.shape,
        data.channels_first,
        steps[0],
        may_differ=wanted.is_regression or data.sizes_differ,
        is_mask=data.says_mask,
    )
    check_normalize(data, layout.row_shape[-1])
    for sample in everything:
        layout.check(sample)
    target_shapes = _target_shapes(everything, layout, steps[1])
    num_channels = max((shape[-1] for shape in target_shapes.values()), default=1)
    coding = _survey(
        everything, data, files, is_regression=wanted.is_regression, num_channels=num_channels
    )
    is_continuous = coding is not None and coding.kind == "continuous"
    fill = 0 if is_continuous else wanted.pad_id
    id_dtype = np.uint8 if 0 <= fill <= 255 else np.int32
    target_dtype = np.float32 if is_continuous else id_dtype
    loaded = {}
    for name, samples in parts.items():
        reader = _Reader(tuple(samples), files, layout, steps, coding, fill, id_dtype)
        has_targets = samples[0].target is not None
        target_shape = target_shapes[samples[0]] if has_targets else ()
        if num_channels == 1:
            target_shape = target_shape[:-1]
        sizes = tuple(map(layout.size_of, samples))
        loaded[name] = ArrayPart(
            tuple(samples),
            LazyRows(len(samples), layout.row_shape, np.float32, reader.input),
            LazyRows(len(samples), target_shape, target_dtype, reader.target)
            if has_targets
            else None,
            sizes if len(set(sizes)) > 1 else (),
        )
    return loaded, coding


def _target_shapes(
    samples: Iterable[Sample], layout: ArrayLayout, steps: Steps
) -> dict[Sample, tuple[int, ...]]:
    """Return the shape (*spatial, C) in which each target is compared.

    Raises:
        DataError: they differ, in their channels or beside what is cut in several sizes.
    """
    shapes: dict[Sample, tuple[int, ...]] = {}
    sized = final_size(steps.reading)
    for sample in samples:
        if sample.target is None:
            continue
        size, num_channels = layout.split_target(sample)
        if sample.slice is not None:
            size = sample.slice.slicer.sample_shape
        shapes[sample] = (*(sized or size), num_channels)
        first, shape = next(iter(shapes.items()))
        is_free = sample.slice is not None and shape[-1] == num_channels
        if shapes[sample] != shape and not is_free:
            raise DataError(
                f"{sample.target}: gives targets of {shapes[sample]}, {first.target} of {shape}; "
                "make them equal"
            )
    return shapes


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


def _survey(
    samples: Iterable[Sample],
    data: Data,
    files: ArrayFiles,
    *,
    is_regression: bool,
    num_channels: int,
) -> ArrayCoding | None:
    """Read all targets once and decide what their values mean."""
    targets = {sample.target: None for sample in samples if sample.target is not None}
    if not targets:
        return None
    counts: Counter[int] = Counter()
    continuous = ArrayCoding("continuous", 0, (), {}, num_channels=num_channels)
    if num_channels > 1:
        return continuous
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
    layout: ArrayLayout
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
        """Return (*spatial): class ids, with `fill` where a slice is padded; or float32, with an
        axis of channels at the end where there are several."""
        sample = self.samples[index]
        assert sample.target is not None
        assert self.coding is not None
        encode: Callable[[Array], Array] | None = None
        if self.coding.kind != "continuous":
            # Before padding: a padded value is no class.
            encode = self.coding.encode
        values = self._read(sample.target, sample.slice, self.fill, encode)
        axis = self.layout.target_axis(sample)
        if axis is not None:
            values = np.moveaxis(values, axis, -1)
            values = values[..., 0] if values.shape[-1] == 1 else values
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

        if box is None:
            return read(source, None)
        return box.cut(read, fill, has_channels=len(source.shape) > len(box.start))


def _refuse_not_finite(values: Array, source: Source, name: str) -> None:
    if not np.isfinite(values).all():
        where = f" (sample {name})" if name not in (source.path.name, source.key) else ""
        raise DataError(
            f"{source}{where}: holds NaN, infinity or numbers beyond float32; replace them"
        )
