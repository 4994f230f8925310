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
    patches: Tensor | None = None

    @classmethod
    def on(cls, device: torch.device, drawn: Augmentation) -> Self:
        """Copy what was drawn to the device, which is not waited for."""

        def copied(values: Floats | None) -> Tensor | None:
            return None if values is None else to_device(values.astype(np.float32), device)

        patches = None if drawn.patches is None else to_device(drawn.patches, device)
        return cls(
            to_device(drawn.flips, device), copied(drawn.warps), copied(drawn.tones), patches
        )

    def __getitem__(self, samples: slice) -> DrawnAugmentation:
        warps, tones, patches = self.warps, self.tones, self.patches
        return DrawnAugmentation(
            self.flips[samples],
            None if warps is None else warps[samples],
            None if tones is None else tones[samples],
            None if patches is None else patches[samples],
        )


def augment(
    inputs_NCHW: Tensor, targets: Tensor | None, drawn: DrawnAugmentation, steps: Steps
) -> tuple[Tensor, Tensor | None]:
    """Flip and warp images and their targets together, and change the images' tones.

    What is computed depends on `steps` alone, never on what was drawn, and nothing is read back:
    a CUDA graph may repeat it with other draws.

    Args:
        inputs_NCHW: float32 in [0, 1].
        targets: class ids (N, H, W), or continuous values (N, C, H, W), which are interpolated.
        drawn: what happens to each of these samples.
        steps: the transforms it was drawn from.
    """
    # Axis 1 of an (H, W) image is the last of both tensors, as it is of a volume's.
    for column, (axis, _) in enumerate(steps.flips):
        chosen = drawn.flips[:, column]
        inputs_NCHW = _flip(inputs_NCHW, chosen, axis - 2)
        targets = None if targets is None else _flip(targets, chosen, axis - 2)
    if drawn.warps is not None:
        inputs_NCHW = _warp_inputs(inputs_NCHW, drawn.warps, steps)
        if targets is not None and targets.is_floating_point():
            targets = _warp(targets, drawn.warps, "bilinear")
        elif targets is not None:
            # Class ids are exact in float32. What comes from beyond the border is 0, background.
            moved = _warp(targets.unsqueeze(1).float(), drawn.warps, "nearest")
            targets = moved.squeeze(1).to(targets.dtype)
    if drawn.tones is not None:
        brightness, contrast = drawn.tones.view(-1, 2, 1, 1, 1).unbind(1)
        mean = inputs_NCHW.mean((1, 2, 3), keepdim=True)
        inputs_NCHW = ((inputs_NCHW - mean) * contrast + mean + brightness).clamp(0, 1)
    if drawn.patches is not None:
        (patches,) = steps.patches
        inputs_NCHW = cut_out(inputs_NCHW, drawn.patches, patches.size)
    return inputs_NCHW.contiguous(memory_format=channels_last(inputs_NCHW.ndim - 2)), targets


def cut_out(inputs_NCHW: Tensor, corners_NP2: Tensor, size_HW: tuple[int, int]) -> Tensor:
    """Blank patches of `size_HW` that begin at these rows and columns; they may overlap."""
    inside = []
    for axis, side in enumerate(inputs_NCHW.shape[2:]):
        place = torch.arange(side, device=inputs_NCHW.device)
        begin = corners_NP2[..., axis, None]
        inside.append(((place >= begin) & (place < begin + size_HW[axis])).to(inputs_NCHW.dtype))
    rows_NPH, columns_NPW = inside
    # How many patches cover each pixel: a product over patches, which needs no (N, P, H, W).
    covered_NHW = rows_NPH.transpose(1, 2) @ columns_NPW
    return inputs_NCHW * (covered_NHW == 0).unsqueeze(1)


def channels_last(rank: int) -> torch.memory_format:
    """Return the format that puts channels last, for images (2) or volumes (3)."""
    return torch.channels_last if rank == 2 else torch.channels_last_3d


def _flip(values: Tensor, chosen: Tensor, axis: int) -> Tensor:
    shape = (-1,) + (1,) * (values.ndim - 1)
    return torch.where(chosen.view(shape), values.flip(axis), values)


def _warp_inputs(inputs_NCHW: Tensor, theta: Tensor, steps: Steps) -> Tensor:
    """Warp with black from beyond the border; with random_affine in it, with each image's mean.

    That is the chest X-ray course's way: it warps images of mean 0.
    """
    if not any(name == "random_affine" for name, _ in steps.warps):
        return _warp(inputs_NCHW, theta, "bilinear")
    mean = inputs_NCHW.mean((2, 3), keepdim=True)
    return _warp(inputs_NCHW - mean, theta, "bilinear") + mean


def _warp(values_NCHW: Tensor, theta: Tensor, mode: str) -> Tensor:
    # Without align_corners, -1 and 1 are the outer edges of the border's pixels.
    grid = F.affine_grid(theta, list(values_NCHW.shape), align_corners=False)
    return F.grid_sample(values_NCHW, grid, mode=mode, padding_mode="zeros", align_corners=False)
