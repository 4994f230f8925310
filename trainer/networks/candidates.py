"""A parameter that a file has for a network, and how one of a first layer is fitted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_ADAPTED = 4096  # channels of a first layer that are made one


@dataclass(frozen=True)
class Candidate:
    """A parameter of a file: what it is called there, where it belongs, in torch's layout."""

    label: str
    key: str | None
    value: Tensor
    guess: str = ""


def adapt_channels(value: Tensor, wanted: torch.Size) -> Tensor | None:
    """Fit a first layer to gray images where the file's had colour, or the other way.

    A kernel's channels are summed, or divided among three: a gray image as three equal
    channels gives the same result in both. Per-channel vectors are averaged or repeated.
    """
    if not can_adapt(tuple(value.shape), tuple(wanted)):
        return None
    if value.ndim == 1:
        return value.mean(0, keepdim=True) if wanted[0] == 1 else value.repeat(wanted[0])
    if wanted[1] == 1:
        return value.sum(1, keepdim=True)
    return value.repeat_interleave(wanted[1], dim=1) / wanted[1]


def can_adapt(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Say whether `adapt_channels` fits a first layer's parameter of this shape."""
    if len(shape) != len(wanted) or not shape or max(shape) > MAX_ADAPTED:
        return False
    axis = min(1, len(shape) - 1)
    others = [n for i, n in enumerate(shape) if i != axis]
    same = others == [n for i, n in enumerate(wanted) if i != axis]
    return same and 1 in (shape[axis], wanted[axis])
