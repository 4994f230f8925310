"""Turns a set of images, in memory or mapped, into batches of tensors on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.augment import augment
from trainer.config import Normalize
from trainer.data.augmentation import Augmentation, draw_augmentation
from trainer.data.images import Array
from trainer.data.imageset import ImageSet
from trainer.data.intensity import IntensityRange
from trainer.data.rows import LazyRows
from trainer.parallel import ALONE, World

# The set moves to the device as a whole when it takes less than this share of the free memory:
# then a batch costs an index there instead of a copy over the bus.
DEVICE_SHARE = 0.25
CHUNK_BYTES = 2**26  # goes to the device at once: a mapped set need not fit into host memory

Crop = tuple[slice, slice]  # rows and columns


@dataclass(frozen=True)
class Batch:
    """Some samples, ready for the network.

    Attributes:
        indices: positions in the set.
        inputs_NCHW: float32, channels-last in memory; (N, C, D, H, W) of volumes.
        targets: (N, H, W) class ids int64, (N, 1, H, W) float32 in [0, 1] where continuous, None;
            (N,) of a classification.
        share: what part of the batch this process has; less than 1 with several processes.
    """

    indices: NDArray[np.int64]
    inputs_NCHW: Tensor
    targets: Tensor | None
    share: float = 1.0


class Batches:
    """Gives this process's part of a set's batches, epoch by epoch."""

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        device: torch.device,
        continuous: bool,
        world: World = ALONE,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self._world = world
        self._tiles = images.tiles
        self._crops_per_image = images.tiles.per_image if images.tiles else 1
        self._blocks = world.parts(np.arange(len(images)))
        self.block_batch_size = -(-batch_size // world.size)
        # Whole images one by one, however large: a batch is one of tiles then.
        self._images_at_once = 1 if images.tiles else self.block_batch_size
        self._device = device
        self._continuous = continuous
        self._inputs = _Rows(images.inputs_NHWC, device)
        targets = images.targets_NHW
        self._targets = None if targets is None else _Rows(targets, device)
        if device.type == "cuda":
            free_bytes, _ = torch.cuda.mem_get_info(device)
            if self._inputs.nbytes < DEVICE_SHARE * free_bytes:
                self._inputs.move_to_device()
                if self._targets is not None:
                    self._targets.move_to_device()

    def __len__(self) -> int:
        """Return the number of training batches of an epoch."""
        return -(-self.num_samples // self.batch_size)

    @property
    def num_samples(self) -> int:
        """Number of samples of an epoch: images, or crops of them."""
        return len(self.images) * self._crops_per_image

    @property
    def num_in_order(self) -> int:
        """Number of evaluation batches of each process; the first one has the longest part."""
        return -(-len(self._blocks[0]) // self._images_at_once)

    def in_order(self) -> Iterator[Batch | None]:
        """Give the samples as they are stored, unchanged, for evaluation.

        Each process has a block of the set, so that what all find follows in the set's order. All
        give the same number of batches: None where a process has no sample left.
        """
        mine = _split(self._blocks[self._world.rank], self._images_at_once)
        for _ in range(self.num_in_order):
            indices = next(mine, None)
            yield None if indices is None else self._make(indices)

    def shuffled(self, *, seed: int, epoch: int) -> Iterator[Batch]:
        """Give the samples of a training epoch: shuffled and augmented, by seed and epoch."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, 0]))
        order = rng.permutation(self.num_samples)
        corners = self._draw_corners(seed=seed, epoch=epoch)
        drawn = draw_augmentation(
            self.images.steps,
            num_samples=self.num_samples,
            size_HW=(self.images.input_shape[0], self.images.input_shape[1]),
            seed=seed,
            epoch=epoch,
        )
        for samples in _split(order, self.batch_size):
            part = self._world.part(samples)
            share = len(part) / len(samples)
            # A batch of fewer samples than processes: any sample will do, as it counts nothing,
            # but every process must have gradients to add.
            part = part if len(part) else samples[:1]
            crops = None if corners is None else self._crops(corners[part])
            yield self._make(part // self._crops_per_image, drawn[part], share, crops)

    def _draw_corners(self, *, seed: int, epoch: int) -> NDArray[np.int64] | None:
        """Draw where each crop begins, (num_samples, 2), from every place that it fits into."""
        if self._tiles is None:
            return None
        rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, 4]))
        spare = np.subtract(self.images.inputs_NHWC.shape[1:3], self._tiles.size)
        return rng.integers(0, spare, (self.num_samples, 2), endpoint=True)

    def _crops(self, corners: NDArray[np.int64]) -> list[Crop]:
        assert self._tiles is not None
        height, width = self._tiles.size
        return [
            (slice(row, row + height), slice(column, column + width))
            for row, column in corners.tolist()
        ]

    def _make(
        self,
        indices: NDArray[np.int64],
        drawn: Augmentation | None = None,
        share: float = 1.0,
        crops: list[Crop] | None = None,
    ) -> Batch:
        # (N, H, W, C) permuted to NCHW is the channels-last memory format: no copy
        inputs = self._inputs.take(indices, crops).to(torch.float32).movedim(-1, 1)
        inputs = _scale(inputs, self._inputs.full_scale, self.images.intensity_range)
        targets = None if self._targets is None else self._targets.take(indices, crops)
        if drawn is not None and targets is not None and targets.ndim == 1:
            inputs, _ = augment(inputs, None, drawn, self.images.steps)  # a class has no place
        elif drawn is not None:
            inputs, targets = augment(inputs, targets, drawn, self.images.steps)
        inputs = _normalize(inputs, self.images.steps.normalize)
        if targets is not None and self._continuous:
            assert self._targets is not None
            values = targets.float().unsqueeze(1) / self._targets.full_scale
            targets = _normalize(values, self.images.target_steps.normalize)
        elif targets is not None:
            targets = targets.long()
        return Batch(indices, inputs, targets, share)


def _split(order: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


class _Rows:
    """The rows of an array: copied batch by batch, or on the device as a whole."""

    def __init__(self, values: Array | LazyRows, device: torch.device) -> None:
        self._values = values
        self._device = device
        self._resident: Tensor | None = None
        is_float = values.dtype.kind == "f"
        self.full_scale = 1.0 if is_float else float(np.iinfo(values.dtype).max)
        # torch indexes no uint16
        self._dtype = np.dtype(values.dtype if is_float or values.dtype == np.uint8 else np.int32)
        self.nbytes = values.size * self._dtype.itemsize

    def move_to_device(self) -> None:
        num_rows = max(1, CHUNK_BYTES * len(self._values) // self.nbytes)
        dtype = torch.from_numpy(np.empty(0, self._dtype)).dtype
        resident = torch.empty(self._values.shape, dtype=dtype, device=self._device)
        for start in range(0, len(self._values), num_rows):
            # A copy, because torch shares memory and a mapped array is read-only.
            chunk = np.array(self._values[start : start + num_rows], dtype=self._dtype)
            resident[start : start + num_rows] = torch.from_numpy(chunk)
        self._resident = resident

    def take(self, indices: NDArray[np.int64], crops: list[Crop] | None = None) -> Tensor:
        """Return rows, or of each its crop: a mapped array is read there only."""
        if crops is not None:
            where = list(zip(indices.tolist(), crops, strict=True))
            if self._resident is not None:
                return torch.stack([self._resident[index, *crop] for index, crop in where])
            assert not isinstance(self._values, LazyRows)  # tiles are for images
            cut = np.stack([self._values[index, *crop] for index, crop in where])
            return torch.from_numpy(cut.astype(self._dtype, copy=False)).to(self._device)
        if self._resident is not None:
            return self._resident[torch.from_numpy(indices).to(self._device)]
        rows = self._values.take(indices, axis=0).astype(self._dtype, copy=False)
        return torch.from_numpy(rows).to(self._device)


def _scale(values: Tensor, full_scale: float, span: IntensityRange | None) -> Tensor:
    if span is None:
        return values / full_scale
    return ((values - span.low) / (span.high - span.low)).clamp_(0, 1)


def _normalize(values_NCHW: Tensor, steps: tuple[Normalize, ...]) -> Tensor:
    shape = (1, -1, *[1] * (values_NCHW.ndim - 2))
    for step in steps:
        mean, std = (
            torch.tensor(value, dtype=torch.float32, device=values_NCHW.device).view(shape)
            for value in (step.mean, step.std)
        )
        values_NCHW = (values_NCHW - mean) / std
    return values_NCHW
