"""The transforms of a config, split into what happens once and what happens at each epoch.

`resize` runs once, when the images are read. What is random is drawn for each epoch and runs on
whole batches, as normalisation does: all flips, then all warps in the config's order (one
resampling, whatever their number), then the tones, then `normalize`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.config import Data, IntensityJitter, Normalize, Transform
from trainer.data.images import Array
from trainer.errors import ConfigError


@dataclass(frozen=True)
class Steps:
    """The transforms of inputs or of targets, in the config's order within each kind.

    Attributes:
        sizes_HW: resizes to do when an image is read, one after the other.
        flips: (axis of an (H, W, …) image, probability) for each epoch.
        normalize: applied to values in [0, 1], at the end.
        warps: (name, how much at most) for each epoch, see `trainer.data.augmentation`.
        tones: changes of brightness and contrast for each epoch, of inputs alone.
    """

    sizes_HW: tuple[tuple[int, int], ...]
    flips: tuple[tuple[int, float], ...]
    normalize: tuple[Normalize, ...]
    warps: tuple[tuple[str, float], ...] = ()
    tones: tuple[IntensityJitter, ...] = ()

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
        ConfigError: a flip or a warp of inputs alone or of targets alone.
    """
    for key in ("input_transforms", "target_transforms"):
        for index, entry in enumerate(getattr(data, key)):
            if _moves(entry):
                raise ConfigError(
                    f"data.{key}[{index}]: {', '.join(entry.model_fields_set)} must move inputs "
                    "and masks together; put it into data.transforms"
                )
    inputs = _steps((*data.transforms, *data.input_transforms))
    targets = _steps((*data.transforms, *data.target_transforms))
    return inputs, targets


FLIPS = {"random_horizontal_flip": 1, "random_vertical_flip": 0}  # the axis of an (H, W) image
WARPS = ("jitter_crop", "random_zoom", "random_rotate", "random_affine")


def _moves(entry: Transform) -> bool:
    return not entry.model_fields_set.isdisjoint((*FLIPS, *WARPS))


def _steps(entries: tuple[Transform, ...]) -> Steps:
    # Each entry has one key.
    given = [
        (key, value)
        for entry in entries
        for key in entry.model_fields_set
        if (value := getattr(entry, key)) is not None
    ]
    return Steps(
        sizes_HW=tuple(value for key, value in given if key == "resize"),
        flips=tuple((FLIPS[key], value) for key, value in given if key in FLIPS),
        normalize=tuple(value for key, value in given if key == "normalize"),
        warps=tuple((key, value) for key, value in given if key in WARPS),
        tones=tuple(value for key, value in given if key == "intensity_jitter"),
    )


def draw_flips(steps: Steps, *, num_samples: int, seed: int, epoch: int) -> NDArray[np.bool_]:
    """Decide the flips of one epoch, (num_samples, num_flips).

    They depend on seed, epoch and the sample's index alone: the same with any batch size, any
    order of samples and any number of processes.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, 1]))
    probabilities = np.array([probability for _, probability in steps.flips])
    return rng.random((num_samples, len(steps.flips))) < probabilities
