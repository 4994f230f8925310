"""The transforms of a config, split into what happens once and what happens at each epoch.

What is fixed (sizes, rotation, colours) runs once, when images are read, in the config's order.
What is random is drawn for each epoch and runs on whole batches, as normalisation does: all flips,
then all warps in the config's order (one resampling, whatever their number), then the tones, then
`normalize`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.config import Data, IntensityJitter, Normalize, RandomPatches, Transform
from trainer.data.geometry import ReadingStep
from trainer.errors import ConfigError


@dataclass(frozen=True)
class Steps:
    """The transforms of inputs or of targets, in the config's order within each kind.

    Attributes:
        reading: what is done when an image is read, see `trainer.data.geometry`.
        flips: (axis of an (H, W, …) image, probability) for each epoch.
        normalize: applied to values in [0, 1], at the end.
        warps: (name, how much at most) for each epoch, see `trainer.data.augmentation`.
        tones: changes of brightness and contrast for each epoch, of inputs alone.
        patches: what is cut out of inputs, for each epoch and, once for all, for evaluation.
    """

    reading: tuple[ReadingStep, ...]
    flips: tuple[tuple[int, float], ...]
    normalize: tuple[Normalize, ...]
    warps: tuple[tuple[str, float], ...] = ()
    tones: tuple[IntensityJitter, ...] = ()
    patches: tuple[RandomPatches, ...] = ()


def plan_transforms(data: Data) -> tuple[Steps, Steps]:
    """Return the steps of inputs and of targets.

    Raises:
        ConfigError: what moves pixels, of inputs alone or of targets alone; a colour code, or
            means, for other channels than the inputs have.
    """
    for key in ("input_transforms", "target_transforms"):
        for index, entry in enumerate(getattr(data, key)):
            if _moves(entry):
                raise ConfigError(
                    f"data.{key}[{index}]: {', '.join(entry.model_fields_set)} must move inputs "
                    "and masks together; put it into data.transforms"
                )
    for index, entry in enumerate(data.target_transforms):
        if entry.convert_color is not None:
            raise ConfigError(
                f"data.target_transforms[{index}].convert_color: masks hold classes, no colours; "
                "put it into data.input_transforms"
            )
    if data.inputs in ("images", "mnist"):
        check_normalize(data, num_channels(data))
    turn = 1 if data.rotate_direction == "counterclockwise" else -1
    inputs = _steps((*data.transforms, *data.input_transforms), turn)
    is_exact = data.mask_resize != "opencv"
    targets = _steps((*data.transforms, *data.target_transforms), turn, is_exact=is_exact)
    return inputs, targets


def num_channels(data: Data) -> int:
    """Return how many channels the network's input has.

    Raises:
        ConfigError: a colour code for another number than there is at its place of the list.
    """
    channels = 1 if data.is_input_gray else 3
    for key in ("transforms", "input_transforms"):
        for index, entry in enumerate(getattr(data, key)):
            if entry.convert_color is None:
                continue
            before, after = (
                CHANNELS.get(name, 3)
                for name in entry.convert_color.removesuffix("_FULL").split("2")
            )
            if channels != before:
                raise ConfigError(
                    f"data.{key}[{index}].convert_color: {entry.convert_color} takes {before} "
                    f"channel(s), and the images have {channels} there (3 in BGR order when they "
                    "are read, 1 with data.grayscale)"
                )
            channels = after
    return channels


def check_normalize(data: Data, num_channels: int) -> None:
    """Refuse lists of means or deviations that are not one number for each channel.

    Raises:
        ConfigError: names the transform.
    """
    for key in ("transforms", "input_transforms", "target_transforms"):
        channels = num_channels
        if key == "target_transforms":  # coloured images, perhaps: see trainer.setup.fit
            channels = 1 if data.target_is_mask or data.is_target_gray else 3
        for index, entry in enumerate(getattr(data, key)):
            for name in ("mean", "std"):
                value = getattr(entry.normalize, name, 0.0)
                if isinstance(value, tuple) and len(value) not in (1, channels):
                    raise ConfigError(
                        f"data.{key}[{index}].normalize.{name}: {len(value)} numbers for "
                        f"{channels} channel(s); expected one for each, or a number for all"
                    )


FLIPS = {"random_horizontal_flip": 1, "random_vertical_flip": 0}  # the axis of an (H, W) image
WARPS = ("jitter_crop", "random_zoom", "random_rotate", "random_affine")
READING = ("resize", "center_crop", "rotate", "convert_color")
# A resize of both to the same size may stand in both lists.
MOVING = (*FLIPS, *WARPS, "center_crop", "rotate", "random_patches")
CHANNELS = {"GRAY": 1, "BGRA": 4, "RGBA": 4}  # of the colours in OpenCV's codes; others have 3


def _moves(entry: Transform) -> bool:
    return not entry.model_fields_set.isdisjoint(MOVING)


def _steps(entries: tuple[Transform, ...], turn: int, *, is_exact: bool = True) -> Steps:
    """Sort out the entries; `turn` makes OpenCV's angle, counter-clockwise, of `rotate`."""
    # Each entry has one key.
    given = [
        (key, value)
        for entry in entries
        for key in entry.model_fields_set
        if (value := getattr(entry, key)) is not None
    ]
    return Steps(
        reading=tuple(
            ReadingStep(key, turn * value if key == "rotate" else value, is_exact)
            for key, value in given
            if key in READING
        ),
        flips=tuple((FLIPS[key], value) for key, value in given if key in FLIPS),
        normalize=tuple(value for key, value in given if key == "normalize"),
        warps=tuple((key, value) for key, value in given if key in WARPS),
        tones=tuple(value for key, value in given if key == "intensity_jitter"),
        patches=tuple(value for key, value in given if key == "random_patches"),
    )


def draw_flips(steps: Steps, *, num_samples: int, seed: int, epoch: int) -> NDArray[np.bool_]:
    """Decide the flips of one epoch, (num_samples, num_flips).

    They depend on seed, epoch and the sample's index alone: the same with any batch size, any
    order of samples and any number of processes.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, 1]))
    probabilities = np.array([probability for _, probability in steps.flips])
    return rng.random((num_samples, len(steps.flips))) < probabilities
