"""Turns a set of images in memory into batches of tensors on the device."""

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
from trainer.data.dataset import ImageSet
from trainer.data.images import Array

# The set moves to the device as a whole when it takes less than this share of the free memory:
# then a batch costs an index there instead of a copy over the bus.
DEVICE_SHARE = 0.25


@dataclass(frozen=True)
class Batch:
    """Some samples, ready for the network.

    Attributes:
        indices: positions in the set.
        inputs_NCHW: float32, channels-last in memory.
        targets: (N, H, W) class ids int64, (N, 1, H, W) float32 in [0, 1] where continuous, None.
    """

    indices: NDArray[np.int64]
    inputs_NCHW: Tensor
    targets: Tensor | None


class Batches:
    """Gives a set's batches, epoch by epoch."""

    def __init__(
        self, images: ImageSet, *, batch_size: int, device: torch.device, continuous: bool
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self._device = device
        self._continuous = continuous
        self._inputs, self._input_scale = _as_tensor(images.inputs_NHWC)
        self._targets: Tensor | None = None
        if images.targets_NHW is not None:
            self._targets, self._target_scale = _as_tensor(images.targets_NHW)
        if device.type == "cuda":
            free_bytes, _ = torch.cuda.mem_get_info(device)
            if self._inputs.nbytes < DEVICE_SHARE * free_bytes:
                self._inputs = self._inputs.to(device)
                self._targets = None if self._targets is None else self._targets.to(device)

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def in_order(self) -> Iterator[Batch]:
        """Give the samples as they are stored, unchanged, for evaluation."""
        for indices in self._split(np.arange(len(self.images))):
            yield self._make(indices)

    def shuffled(self, *, seed: int, epoch: int) -> Iterator[Batch]:
        """Give the samples of a training epoch: shuffled and augmented, by seed and epoch."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, 0]))
        order = rng.permutation(len(self.images))
        drawn = draw_augmentation(
            self.images.steps,
            num_samples=len(self.images),
            size_HW=self.images.input_shape[:2],
            seed=seed,
            epoch=epoch,
        )
        for indices in self._split(order):
            yield self._make(indices, drawn[indices])

    def _split(self, order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def _make(self, indices: NDArray[np.int64], drawn: Augmentation | None = None) -> Batch:
        picked = torch.from_numpy(indices).to(self._inputs.device)
        # (N, H, W, C) permuted to NCHW is the channels-last memory format: no copy
        inputs = self._inputs[picked].to(self._device, torch.float32).permute(0, 3, 1, 2)
        inputs = inputs / self._input_scale
        targets = None if self._targets is None else self._targets[picked].to(self._device)
        if drawn is not None:
            inputs, targets = augment(inputs, targets, drawn, self.images.steps)
        inputs = _normalize(inputs, self.images.steps.normalize)
        if targets is not None and self._continuous:
            values = targets.float().unsqueeze(1) / self._target_scale
            targets = _normalize(values, self.images.target_steps.normalize)
        elif targets is not None:
            targets = targets.long()
        return Batch(indices, inputs, targets)


def _as_tensor(values: Array) -> tuple[Tensor, float]:
    full_scale = float(np.iinfo(values.dtype).max)
    # torch indexes no uint16
    tensor = torch.from_numpy(values if values.dtype == np.uint8 else values.astype(np.int32))
    return tensor, full_scale


def _normalize(values_NCHW: Tensor, steps: tuple[Normalize, ...]) -> Tensor:
    for step in steps:
        mean, std = (
            torch.tensor(value, dtype=torch.float32, device=values_NCHW.device).view(1, -1, 1, 1)
            for value in (step.mean, step.std)
        )
        values_NCHW = (values_NCHW - mean) / std
    return values_NCHW
