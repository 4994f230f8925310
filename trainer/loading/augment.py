"""Carries out what `trainer.data.augmentation` drew, on whole batches, where the batch is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.compute.device import to_device
from trainer.data.augmentation import Augmentation, Floats
from trainer.data.transforms import Steps


@dataclass(frozen=True)
class DrawnAugmentation:
    """An `Augmentation` on the device; its fields are the same, warps and tones in float32."""

    flips: Tensor
    warps: Tensor | None
    tones: Tensor | None

    @classmethod
    def on(cls, device: torch.device, drawn: Augmentation) -> Self:
        """Copy what was drawn to the device, which is not waited for."""

        def copied(values: Floats | None) -> Tensor | None:
            return None if values is None else to_device(values.astype(np.float32), device)

        return cls(to_device(drawn.flips, device), copied(drawn.warps), copied(drawn.tones))

    def __getitem__(self, samples: slice) -> DrawnAugmentation:
        warps, tones = self.warps, self.tones
        return DrawnAugmentation(
            self.flips[samples],
            None if warps is None else warps[samples],
            None if tones is None else tones[samples],
        )


def augment(
    inputs_NCHW: Tensor, targets: Tensor | None, drawn: DrawnAugmentation, steps: Steps
) -> tuple[Tensor, Tensor | None]:
    """Flip and warp images and their targets together, and change the images' tones.

    What is computed depends on `steps` alone, never on what was drawn, and nothing is read back:
    a CUDA graph may repeat it with other draws.

    Args:
        inputs_NCHW: float32 in [0, 1].
        targets: (N, H, W) as stored: class ids, or continuous values.
        drawn: what happens to each of these samples.
        steps: the transforms it was drawn from.
    """
    # Axis 1 of an (H, W) image is the last of both tensors, as it is of a volume's.
    for column, (axis, _) in enumerate(steps.flips):
        chosen = drawn.flips[:, column]
        inputs_NCHW = _flip(inputs_NCHW, chosen, axis - 2)
        targets = None if targets is None else _flip(targets, chosen, axis - 2)
    if drawn.warps is not None:
        inputs_NCHW = _warp(inputs_NCHW, drawn.warps, "bilinear")
        if targets is not None:
            # Class ids and stored values below 2^24 are exact in float32. What comes from beyond
            # the border is 0: black, and background.
            moved = _warp(targets.unsqueeze(1).float(), drawn.warps, "nearest")
            targets = moved.squeeze(1).to(targets.dtype)
    if drawn.tones is not None:
        brightness, contrast = drawn.tones.view(-1, 2, 1, 1, 1).unbind(1)
        mean = inputs_NCHW.mean((1, 2, 3), keepdim=True)
        inputs_NCHW = ((inputs_NCHW - mean) * contrast + mean + brightness).clamp(0, 1)
    return inputs_NCHW.contiguous(memory_format=channels_last(inputs_NCHW.ndim - 2)), targets


def channels_last(rank: int) -> torch.memory_format:
    """Return the format that puts channels last, for images (2) or volumes (3)."""
    return torch.channels_last if rank == 2 else torch.channels_last_3d


def _flip(values: Tensor, chosen: Tensor, axis: int) -> Tensor:
    shape = (-1,) + (1,) * (values.ndim - 1)
    return torch.where(chosen.view(shape), values.flip(axis), values)


def _warp(values_NCHW: Tensor, theta: Tensor, mode: str) -> Tensor:
    # Without align_corners, -1 and 1 are the outer edges of the border's pixels.
    grid = F.affine_grid(theta, list(values_NCHW.shape), align_corners=False)
    return F.grid_sample(values_NCHW, grid, mode=mode, padding_mode="zeros", align_corners=False)
