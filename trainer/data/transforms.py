"""The transforms of a config, split into what happens once and what happens at each epoch.

`resize` runs once, when the images are read; flips and normalisation run on whole batches, where
they cost a view and a fused multiply instead of a pass per image.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.config import Data, Normalize, Transform
from trainer.data.images import Array
from trainer.errors import ConfigError


@dataclass(frozen=True)
class Steps:
    """The transforms of inputs or of targets, in the config's order within each kind.

    Attributes:
        sizes_HW: resizes to do when an image is read, one after the other.
        flips: (axis of an (H, W, …) image, probability) for each epoch.
        normalize: applied to values in [0, 1], at the end.
    """

    sizes_HW: tuple[tuple[int, int], ...]
    flips: tuple[tuple[int, float], ...]
    normalize: tuple[Normalize, ...]

    def resize(self, image: Array, *, nearest: bool) -> Array:
        """Resize an (H, W) or (H, W, C) image, by OpenCV's own rules for pixel centres."""
        mode = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
        for height, width in self.sizes_HW:
            if image.shape[:2] != (height, width):
                resized = cv2.resize(image, (width, height), interpolation=mode)
                # OpenCV drops a last axis of one
                image = resized.reshape(height, width, *image.shape[2:])
        return image


def plan_transforms(data: Data) -> tuple[Steps, Steps]:
    """Return the steps of inputs and of targets.

    Raises:
        ConfigError: a flip of inputs alone or of targets alone, or a resize after a normalize
            with different sizes for both.
    """
    for key in ("input_transforms", "target_transforms"):
        for index, entry in enumerate(getattr(data, key)):
            if _is_flip(entry):
                raise ConfigError(
                    f"data.{key}[{index}]: a flip must move inputs and masks together; "
                    "put it into data.transforms"
                )
    inputs = _steps((*data.transforms, *data.input_transforms))
    targets = _steps((*data.transforms, *data.target_transforms))
    return inputs, targets


def _is_flip(entry: Transform) -> bool:
    return entry.random_horizontal_flip is not None or entry.random_vertical_flip is not None


def _steps(entries: tuple[Transform, ...]) -> Steps:
    flips: list[tuple[int, float]] = []
    for entry in entries:
        if entry.random_horizontal_flip is not None:
            flips.append((1, entry.random_horizontal_flip))
        if entry.random_vertical_flip is not None:
            flips.append((0, entry.random_vertical_flip))
    return Steps(
        sizes_HW=tuple(entry.resize for entry in entries if entry.resize is not None),
        flips=tuple(flips),
        normalize=tuple(entry.normalize for entry in entries if entry.normalize is not None),
    )


def draw_flips(steps: Steps, *, num_samples: int, seed: int, epoch: int) -> NDArray[np.bool_]:
    """Decide the flips of one epoch, (num_samples, num_flips).

    They depend on seed, epoch and the sample's index alone: the same with any batch size, any
    order of samples and any number of processes.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, 1]))
    probabilities = np.array([probability for _, probability in steps.flips])
    return rng.random((num_samples, len(steps.flips))) < probabilities
