"""Reads a set of images and masks into memory, resized and surveyed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.config import Data
from trainer.data.images import Array, Pair, list_samples, read_image, read_mask
from trainer.data.survey import MaskCoding, count_values, decide_coding
from trainer.data.transforms import Steps, plan_transforms
from trainer.errors import DataError


@dataclass(frozen=True)
class ImageSet:
    """A part of the data (training or test) as arrays at the network's size.

    Attributes:
        names: the inputs' file names, N of them.
        inputs_NHWC: 8 or 16 bits; value / full_scale lies in [0, 1].
        targets_NHW: class ids (uint8), continuous targets (stored values), or None.
        steps: what remains to be done to a batch of inputs.
        target_steps: likewise for continuous targets.
    """

    names: tuple[str, ...]
    inputs_NHWC: Array
    targets_NHW: Array | None
    steps: Steps
    target_steps: Steps

    def __len__(self) -> int:
        return len(self.names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of each input."""
        _, height, width, channels = self.inputs_NHWC.shape
        return height, width, channels


@dataclass(frozen=True)
class LoadedData:
    """Both parts of a config's data and what their masks hold."""

    train: ImageSet | None
    test: ImageSet | None
    coding: MaskCoding | None


def load_data(data: Data, resolve: Resolve) -> LoadedData:
    """Read everything that a config names.

    Masks of both parts are surveyed together, so that a class that only one of them shows is
    known to both.

    Raises:
        DataError: see `list_samples`, `read_image`, `read_mask` and `decide_coding`.
    """
    steps = plan_transforms(data)
    train = test = None
    if data.input_path is not None:
        assert data.target_path is not None  # checked with the config
        train = _read_part(
            list_samples(resolve(data.input_path), resolve(data.target_path), "data."), data, steps
        )
    if data.test_input_path is not None:
        target = data.test_target_path
        test = _read_part(
            list_samples(
                resolve(data.test_input_path), resolve(target) if target else None, "data.test_"
            ),
            data,
            steps,
        )
    if train and test and train.inputs.shape[1:] != test.inputs.shape[1:]:
        sizes = ["x".join(str(n) for n in part.inputs.shape[1:3]) for part in (train, test)]
        raise DataError(
            f"training images are {sizes[0]}, test images {sizes[1]} (height x width); add "
            '{"resize": [H, W]} to data.transforms'
        )
    counts: Counter[int] = Counter()
    for part in (train, test):
        counts.update(part.counts if part else {})
    coding = (
        decide_coding(
            counts,
            where=data.target_path or data.test_target_path or "masks",
            mask_values=data.mask_values,
            mask_threshold=data.mask_threshold,
            continuous_allowed=not data.target_is_mask,
        )
        if counts
        else None
    )
    return LoadedData(
        train.encode(coding, steps) if train else None,
        test.encode(coding, steps) if test else None,
        coding,
    )


class Resolve:
    """Finds what a config's relative path means: from the current folder, as the reference
    engine does, or, where nothing is there, from the config's own folder. A config that says
    `relative_to: config` has it the other way round, so that its folder can be moved anywhere."""

    def __init__(self, config_dir: Path, *, config_first: bool = False) -> None:
        self._config_dir = config_dir
        self._config_first = config_first

    def __call__(self, path: str) -> Path:
        here, beside = Path(path), self._config_dir / path
        first, second = (beside, here) if self._config_first else (here, beside)
        return second if not first.exists() and second.exists() else first


@dataclass
class _Part:
    names: tuple[str, ...]
    inputs: Array
    masks: list[Array] | None
    counts: Counter[int]

    def encode(self, coding: MaskCoding | None, steps: tuple[Steps, Steps]) -> ImageSet:
        targets: Array | None = None
        if self.masks is not None and coding is not None:
            is_continuous = coding.kind == "continuous"
            targets = np.stack(
                [
                    steps[1].resize(
                        mask if is_continuous else coding.encode(mask), nearest=not is_continuous
                    )
                    for mask in self.masks
                ]
            )
        return ImageSet(self.names, self.inputs, targets, *steps)


def _read_part(pairs: Sequence[Pair], data: Data, steps: tuple[Steps, Steps]) -> _Part:
    # Decoding releases the GIL; the driver gives each worker its share of cores by this variable.
    with ThreadPoolExecutor(_num_threads()) as pool:
        samples = list(pool.map(lambda pair: _read_sample(pair, data, steps), pairs))
    shapes = {image.shape: pair.name for (image, _, _), pair in zip(samples, pairs, strict=True)}
    if len(shapes) > 1:
        shown = ", ".join(f"{name} {shape}" for shape, name in list(shapes.items())[:3])
        raise DataError(
            f'images differ in size: {shown}; add {{"resize": [H, W]}} to data.transforms'
        )
    if len({image.dtype for image, _, _ in samples}) > 1:
        raise DataError("some images have 8 bits a channel and some 16; convert one kind")
    counts: Counter[int] = Counter()
    for _, _, sample_counts in samples:
        counts.update(sample_counts)
    masks = [mask for _, mask, _ in samples if mask is not None]
    return _Part(
        tuple(pair.name for pair in pairs),
        np.stack([image for image, _, _ in samples]),
        masks or None,
        counts,
    )


def _num_threads() -> int:
    # OpenMP also takes lists ("4,2") and leaves nonsense alone, so that is no error here either.
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(1, int(wanted)) if wanted.isdecimal() else os.cpu_count() or 1


def _read_sample(
    pair: Pair, data: Data, steps: tuple[Steps, Steps]
) -> tuple[Array, Array | None, Counter[int]]:
    image = read_image(pair.input, gray=data.is_input_gray)
    mask = read_checked_mask(pair, image.shape[:2]) if pair.target else None
    counts = count_values(mask) if mask is not None else Counter[int]()
    if mask is not None and data.target_is_mask:
        # Nearest keeps the stored values, so the full size need not wait in memory for the coding.
        mask = steps[1].resize(mask, nearest=True)
    return steps[0].resize(image, nearest=False), mask, counts


def read_checked_mask(pair: Pair, size_HW: tuple[int, ...]) -> Array:
    """Read a pair's mask and refuse one of another size than its image."""
    assert pair.target is not None
    mask = read_mask(pair.target)
    if mask.shape != size_HW:
        raise DataError(
            f"{pair.target}: the mask is {mask.shape[0]}x{mask.shape[1]}, its image "
            f"{pair.input.name} {size_HW[0]}x{size_HW[1]} (height x width)"
        )
    return mask
