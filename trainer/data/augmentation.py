"""Draws what happens to each sample in an epoch: flips, warps, brightness and contrast.

Every draw depends on seed, epoch and the sample's place in the set alone: it is the same with any
batch size, any order of samples and any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.data.transforms import Steps, draw_flips

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator
SizesHW = Sequence[int] | npt.NDArray[np.int64]  # height and width: numbers, or arrays of (N,)


@dataclass(frozen=True)
class Augmentation:
    """What happens to some samples, in this order.

    Attributes:
        flips: (N, number of flips), see `Steps.flips`.
        warps: (N, 2, 3), where in the image each place of the result comes from, both in
            coordinates from -1 to 1, as torch's affine_grid takes it; None without any.
        tones: (N, 2), brightness to add and contrast to multiply with; None without any.
        patches: (N, number, 2), row and column where each patch begins; None without any.
    """

    flips: npt.NDArray[np.bool_]
    warps: Floats | None
    tones: Floats | None
    patches: npt.NDArray[np.int64] | None = None

    def __getitem__(self, indices: npt.NDArray[np.int64]) -> Augmentation:
        return Augmentation(
            self.flips[indices],
            None if self.warps is None else self.warps[indices],
            None if self.tones is None else self.tones[indices],
            None if self.patches is None else self.patches[indices],
        )


def draw_augmentation(
    steps: Steps, *, num_samples: int, size_HW: SizesHW, seed: int, epoch: int
) -> Augmentation:
    """Draw for every sample of the set, by its place in it; `size_HW` of all, or of each."""
    flips = draw_flips(steps, num_samples=num_samples, seed=seed, epoch=epoch)
    warps = tones = None
    if steps.warps:
        rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, 2]))
        total = np.broadcast_to(np.eye(3), (num_samples, 3, 3))
        for name, amount in steps.warps:
            # What a later step shows at a place, it takes from the result of the earlier one.
            total = total @ _WARPS[name](rng, num_samples, amount, size_HW)
        warps = total[:, :2]
    if steps.tones:
        rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, 3]))
        tones = np.zeros((num_samples, 2)) + np.array([0.0, 1.0])
        for tone in steps.tones:
            tones[:, 0] += rng.uniform(-tone.brightness, tone.brightness, num_samples)
            tones[:, 1] *= 1 + rng.uniform(-tone.contrast, tone.contrast, num_samples)
    patches = draw_patches(steps, num_samples=num_samples, size_HW=size_HW, seed=seed, epoch=epoch)
    return Augmentation(flips, warps, tones, patches)


def draw_patches(
    steps: Steps, *, num_samples: int, size_HW: SizesHW, seed: int, epoch: int
) -> npt.NDArray[np.int64] | None:
    """Draw where patches begin, anywhere that they fit; of evaluation, that is epoch 0."""
    if not steps.patches:
        return None
    (patches,) = steps.patches
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, 5]))
    spare = [np.max(side) - cut for side, cut in zip(size_HW, patches.size, strict=True)]
    return rng.integers(0, spare, (num_samples, patches.number, 2), endpoint=True)


def _matrices(num_samples: int) -> Floats:
    return np.tile(np.eye(3), (num_samples, 1, 1))


def _jitter_crop(rng: Rng, num_samples: int, most: float, size_HW: SizesHW) -> Floats:
    """Cut off up to `most` of height and of width, wherever, and scale the rest up."""
    cut = rng.uniform(0, most, (num_samples, 2))
    place = rng.uniform(-1, 1, (num_samples, 2))
    warp = _matrices(num_samples)
    for axis in (0, 1):
        warp[:, axis, axis] = 1 - cut[:, axis]
        warp[:, axis, 2] = place[:, axis] * cut[:, axis]
    return warp


def _random_zoom(rng: Rng, num_samples: int, most: float, size_HW: SizesHW) -> Floats:
    """Cut off up to `most`, the same share of height and width, around the middle."""
    warp = _matrices(num_samples)
    warp[:, 0, 0] = warp[:, 1, 1] = 1 - rng.uniform(0, most, num_samples)
    return warp


def _random_rotate(rng: Rng, num_samples: int, most: float, size_HW: SizesHW) -> Floats:
    """Rotate about the middle by up to `most` degrees to either side, as OpenCV counts them."""
    angle = np.deg2rad(rng.uniform(-most, most, num_samples))
    height, width = size_HW
    warp = _matrices(num_samples)
    warp[:, 0, 0] = warp[:, 1, 1] = np.cos(angle)
    # From -1 to 1 are `width` pixels along one axis and `height` along the other.
    warp[:, 0, 1] = -np.sin(angle) * height / width
    warp[:, 1, 0] = np.sin(angle) * width / height
    return warp


def _random_affine(rng: Rng, num_samples: int, sigma: float, size_HW: SizesHW) -> Floats:
    """Add normal noise to each of the six numbers of the identity."""
    warp = _matrices(num_samples)
    warp[:, :2] += sigma * rng.standard_normal((num_samples, 2, 3))
    return warp


_WARPS: dict[str, Callable[[Rng, int, float, SizesHW], Floats]] = {
    "jitter_crop": _jitter_crop,
    "random_zoom": _random_zoom,
    "random_rotate": _random_rotate,
    "random_affine": _random_affine,
}
