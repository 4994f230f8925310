"""Runs a network on images larger than its input: tile by tile, blended where tiles overlap.

The same numbers as MONAI's sliding_window_inference(mode="gaussian"), which the tests compare
with. Logits are blended, not probabilities, so that whatever follows (activation, loss, scores)
is that of a network that saw the whole image.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SIGMA_SHARE = 0.125  # of the tile's side, as MONAI and nnU-Net have it
LEAST_WEIGHT = 1e-3  # of a tile's corner, so that no pixel is divided by nothing


def starts(size_px: int, tile_px: int, overlap: float) -> list[int]:
    """Return where tiles begin along one side; the last one ends with the image."""
    step = max(1, int(tile_px * (1 - overlap)))
    number = 1 + math.ceil(max(0, size_px - tile_px) / step)
    return [min(index * step, size_px - tile_px) for index in range(number)]


def num_tiles(size: Sequence[int], tile: Sequence[int], overlap: float) -> int:
    """Return how many tiles cover an image of this size."""
    sides = zip(size, tile, strict=True)
    return math.prod(len(starts(*side, overlap)) for side in sides)


def window(tile: Sequence[int], device: torch.device) -> Tensor:
    """Return the weight of each pixel of a tile, a Gaussian about its middle, 1 at most."""
    weight = torch.ones((), device=device)
    for side in tile:
        distance = torch.arange(side, dtype=torch.float32, device=device) - (side - 1) / 2
        along = torch.exp(-0.5 * (distance / (SIGMA_SHARE * side)) ** 2)
        weight = weight.unsqueeze(-1) * along
    return weight.clamp(min=LEAST_WEIGHT)


def blend_tiles(
    forward: Callable[[Tensor], Tensor],
    image_1CHW: Tensor,
    tile: Sequence[int],
    *,
    overlap: float,
    batch_size: int,
) -> Tensor:
    """Return the network's output for a whole image.

    Needs memory for one batch of tiles and for input and output of the image, whatever its size.

    Args:
        forward: gives (N, K, *tile) for (N, C, *tile).
        image_1CHW: one image, no side shorter than the tile's.
        tile: the size of a tile along each side.
        overlap: the share of a tile that the next one repeats, below 1.
        batch_size: how many tiles are computed at once.

    Returns:
        (1, K, *size of the image), float32.
    """
    sides = zip(image_1CHW.shape[2:], tile, strict=True)
    corners = itertools.product(*(starts(*side, overlap) for side in sides))
    places = [
        tuple(slice(start, start + side) for start, side in zip(corner, tile, strict=True))
        for corner in corners
    ]
    weight = window(tile, image_1CHW.device)
    total = torch.zeros_like(image_1CHW[:, :1], dtype=torch.float32)
    blended: Tensor | None = None
    for first in range(0, len(places), batch_size):
        batch = places[first : first + batch_size]
        outputs = forward(torch.cat([image_1CHW[:, :, *place] for place in batch])).float()
        if blended is None:
            blended = total.new_zeros((1, outputs.shape[1], *total.shape[2:]))
        for place, output in zip(batch, outputs, strict=True):
            blended[:, :, *place] += output * weight
            total[:, :, *place] += weight
    assert blended is not None  # an image has a tile at least
    return blended.div_(total)
