"""Turns a set of images, in memory or mapped, into batches of tensors on the device."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.compute.device import to_device
from trainer.compute.parallel import ALONE, World
from trainer.config import Normalize
from trainer.data.augmentation import draw_augmentation, draw_patches
from trainer.data.imageset import ImageSet
from trainer.data.intensity import IntensityRange
from trainer.loading.augment import DrawnAugmentation, augment, cut_out
from trainer.loading.rowsource import RowSource

# The set moves to the device as a whole when it takes less than this share of the free memory:
# then a batch costs an index there instead of a copy over the bus.
DEVICE_SHARE = 0.25
EVALUATION_SEED = 0  # whatever the run's: what is cut out of test images is the same for all


@dataclass(frozen=True)
class BatchSelection:
    """What a training batch is made of, all of it on the device; see `Batches.make`.

    Attributes:
        indices: positions in the set.
        inputs: what `RowSource.take` makes rows of.
        targets: likewise; None without targets.
        drawn: what the augmentation does to each.
        share: what part of the batch this process has; less than 1 with several processes.
    """

    indices: NDArray[np.int64]
    inputs: Tensor
    targets: Tensor | None
    drawn: DrawnAugmentation
    share: float = 1.0

    def __len__(self) -> int:
        return len(self.indices)

    def tensors(self) -> list[Tensor]:
        """Return all in which one batch differs from another of its size."""
        drawn = self.drawn
        found = (self.inputs, self.targets, drawn.flips, drawn.warps, drawn.tones, drawn.patches)
        return [values for values in found if values is not None]


@dataclass(frozen=True)
class Batch:
    """Some samples, ready for the network.

    Attributes:
        indices: positions in the set.
        inputs_NCHW: float32, channels-last in memory; (N, C, D, H, W) of volumes.
        targets: (N, H, W) class ids int64, (N, C, H, W) float32 in [0, 1] where continuous, None;
            (N,) of a classification. Their size may be another than the inputs'.
        share: what part of the batch this process has; less than 1 with several processes.
    """

    indices: NDArray[np.int64]
    inputs_NCHW: Tensor
    targets: Tensor | None
    share: float = 1.0


def size_of(inputs_NCHW: Tensor, targets: Tensor | None) -> tuple[int, ...]:
    """Return the size at which outputs are compared: the targets', if they have one."""
    rank = inputs_NCHW.ndim - 2
    has_size = targets is not None and targets.ndim > rank
    return tuple((targets if has_size and targets is not None else inputs_NCHW).shape[-rank:])


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
        crop = images.tiles.size if images.tiles else None
        self._inputs = RowSource(images.inputs_NHWC, device, crop)
        targets = images.targets_NHW
        self._targets = None if targets is None else RowSource(targets, device, crop)
        # Made once: a constant that is made in a step is copied to the device in each.
        rank = len(images.input_shape) - 1
        self._normalize = _constants(images.steps.normalize, rank, device)
        self._normalize_target = _constants(images.target_steps.normalize, rank, device)
        self._sizes = (
            np.unique(images.sizes, axis=0, return_inverse=True)[1] if images.sizes else None
        )
        # The same ones at each evaluation: its scores are compared.
        self._evaluation_patches = draw_patches(
            images.steps,
            num_samples=len(images),
            size_HW=images.input_shape[:2],
            seed=EVALUATION_SEED,
            epoch=0,
        )
        if device.type == "cuda" and self._sizes is None:
            free_bytes, _ = torch.cuda.mem_get_info(device)
            if self._inputs.nbytes < DEVICE_SHARE * free_bytes:
                self.move_to_device()

    def move_to_device(self) -> None:
        """Hold the set on the device as a whole."""
        self._inputs.move_to_device()
        if self._targets is not None:
            self._targets.move_to_device()

    def __len__(self) -> int:
        """Return the number of training batches of an epoch."""
        counts = [self.num_samples] if self._sizes is None else np.bincount(self._sizes).tolist()
        return sum(-(-count // self.batch_size) for count in counts)

    @property
    def num_samples(self) -> int:
        """Number of samples of an epoch: images, or crops of them."""
        return len(self.images) * self._crops_per_image

    @property
    def num_in_order(self) -> int:
        """Number of evaluation batches of each process; some may have none at the last."""
        return max(len(self._runs(block)) for block in self._blocks)

    def in_order(self) -> Iterator[Batch | None]:
        """Give the samples as they are stored, unchanged, for evaluation.

        Each process has a block of the set, so that what all find follows in the set's order. All
        give the same number of batches: None where a process has no sample left.
        """
        mine = iter(self._runs(self._blocks[self._world.rank]))
        for _ in range(self.num_in_order):
            indices = next(mine, None)
            yield None if indices is None else self._evaluated(indices)

    def epoch(self, *, seed: int, epoch: int) -> Iterator[BatchSelection]:
        """Pick the samples of a training epoch: shuffled, and what augments them, by the seed.

        All that the epoch draws goes to the device at once, and no batch waits for it.
        """
        rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, 0]))
        order = rng.permutation(self.num_samples)
        batches = [(samples, self._world.part(samples)) for samples in self._split(order)]
        # A batch of fewer samples than processes: any sample will do, as it counts nothing, but
        # every process must have gradients to add.
        parts = [part if len(part) else samples[:1] for samples, part in batches]
        mine = np.concatenate(parts)
        height, width = self.images.input_shape[:2]
        drawn = draw_augmentation(
            self.images.steps,
            num_samples=self.num_samples,
            size_HW=np.array(self.images.sizes or [(height, width)])[:, :2].T,
            seed=seed,
            epoch=epoch,
        )
        drawn_on_device = DrawnAugmentation.on(self._device, drawn[mine])
        places = self._places(mine, seed=seed, epoch=epoch)
        # Of a set that lies elsewhere each batch is read when it is wanted.
        inputs, targets = self._pick(places) if self._inputs.is_resident else (None, None)
        stops = itertools.accumulate(map(len, parts))
        for (samples, part), stop in zip(batches, stops, strict=True):
            chosen = slice(stop - max(1, len(part)), stop)
            if inputs is None:
                picked = self._pick(places[chosen])
            else:
                picked = inputs[chosen], None if targets is None else targets[chosen]
            share = len(part) / len(samples)
            indices = mine[chosen] // self._crops_per_image
            yield BatchSelection(indices, *picked, drawn_on_device[chosen], share)

    def make(self, picked: BatchSelection) -> Batch:
        """Make the batch of what was picked, on the device alone: a graph may repeat it."""
        targets = None if self._targets is None else self._take_targets(picked.targets)
        if targets is not None and self._continuous:
            targets = self._values(targets)
        inputs = self._scaled(self._inputs.take(picked.inputs))
        has_places = targets is None or targets.ndim > 1  # a class has none
        inputs, moved = augment(
            inputs, targets if has_places else None, picked.drawn, self.images.steps
        )
        return self._finished(
            picked.indices, inputs, moved if has_places else targets, picked.share
        )

    def _evaluated(self, indices: NDArray[np.int64]) -> Batch:
        start, stop = int(indices[0]), int(indices[-1]) + 1
        targets = None if self._targets is None else self._targets.between(start, stop)
        if targets is not None and self._continuous:
            targets = self._values(targets)
        inputs = self._scaled(self._inputs.between(start, stop))
        if self._evaluation_patches is not None:
            (patches,) = self.images.steps.patches
            corners = to_device(self._evaluation_patches[indices], self._device)
            inputs = cut_out(inputs, corners, patches.size)
        return self._finished(indices, inputs, targets)

    def _split(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Split an epoch's order into batches, each of samples of one size."""
        if self._sizes is None:
            return list(_split(order, self.batch_size))
        waiting: dict[int, list[int]] = {}
        batches = []
        for sample in order.tolist():
            batch = waiting.setdefault(int(self._sizes[sample]), [])
            batch.append(sample)
            if len(batch) == self.batch_size:
                batches.append(batch.copy())
                batch.clear()
        batches += filter(None, waiting.values())
        return [np.array(batch, np.int64) for batch in batches]

    def _runs(self, block: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Split samples that follow each other into batches of one size, in their order."""
        if self._sizes is None or not len(block):
            return list(_split(block, self._images_at_once))
        changes = np.flatnonzero(np.diff(self._sizes[block])) + 1
        runs = np.split(block, changes)
        return [batch for run in runs for batch in _split(run, self._images_at_once)]

    def _places(self, samples: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.int64]:
        """Say where samples are, see `RowSource`: each crop begins anywhere that it fits into."""
        if self._tiles is None:
            return samples
        rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, 4]))
        spare = np.subtract(self.images.inputs_NHWC.shape[1:3], self._tiles.size)
        corners = rng.integers(0, spare, (self.num_samples, 2), endpoint=True)
        return np.column_stack([samples // self._crops_per_image, corners[samples]])

    def _pick(self, places: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        targets = None if self._targets is None else self._targets.pick(places)
        return self._inputs.pick(places), targets

    def _take_targets(self, picked: Tensor | None) -> Tensor:
        assert self._targets is not None
        assert picked is not None
        return self._targets.take(picked)

    def _scaled(self, rows_NHWC: Tensor) -> Tensor:
        # (N, H, W, C) permuted to NCHW is the channels-last memory format: no copy
        inputs = rows_NHWC.to(torch.float32).movedim(-1, 1)
        return _scale(inputs, self._inputs.full_scale, self.images.intensity_range)

    def _values(self, rows: Tensor) -> Tensor:
        """Return continuous targets (N, *spatial) or (N, *spatial, C) as (N, C, *spatial)."""
        assert self._targets is not None
        has_channels = rows.ndim == len(self.images.inputs_NHWC.shape)
        values = rows.float().movedim(-1, 1) if has_channels else rows.float().unsqueeze(1)
        return values / self._targets.full_scale

    def _finished(
        self,
        indices: NDArray[np.int64],
        inputs_NCHW: Tensor,
        targets: Tensor | None,
        share: float = 1.0,
    ) -> Batch:
        inputs_NCHW = _normalized(inputs_NCHW, self._normalize)
        if targets is not None and self._continuous:
            targets = _normalized(targets, self._normalize_target)
        elif targets is not None:
            targets = targets.long()
        return Batch(indices, inputs_NCHW, targets, share)


def _split(order: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _scale(values: Tensor, full_scale: float, span: IntensityRange | None) -> Tensor:
    if span is None:
        return values / full_scale
    return ((values - span.low) / (span.high - span.low)).clamp_(0, 1)


def _constants(
    steps: tuple[Normalize, ...], rank: int, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Return each step's mean and deviation, of shape (1, C, …) with `rank` axes of 1."""
    shape = (1, -1, *[1] * rank)

    def constant(value: object) -> Tensor:
        return torch.tensor(value, dtype=torch.float32, device=device).view(shape)

    return [(constant(step.mean), constant(step.std)) for step in steps]


def _normalized(values_NCHW: Tensor, constants: list[tuple[Tensor, Tensor]]) -> Tensor:
    for mean, std in constants:
        values_NCHW = (values_NCHW - mean) / std
    return values_NCHW
