"""Finds out what the values of a data set's masks mean, before anything is trained on them.

{0, 255} is a binary mask; {0, …, C-1} are class ids. Anything else is refused, because a wrong
guess (127 as a class, noise of JPEG as classes) trains without an error and scores nonsense.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trainer.data.bands import bands
from trainer.data.images import Array
from trainer.errors import DataError
from trainer.wording import counted

MAX_CLASS_IDS = 64  # {0, …, 63}: larger sets of small integers are gray levels, not classes
NUM_VALUES_SHOWN = 8


def count_values(mask: Array) -> Counter[int]:
    """Count the pixels of each value in a mask."""
    if mask.dtype == np.uint8:
        counts = np.zeros(256, np.int64)
        for band in bands(mask):  # of which NumPy makes numbers of eight bytes
            counts += np.bincount(band.ravel(), minlength=256)
        return Counter({int(value): int(counts[value]) for value in np.flatnonzero(counts)})
    values, numbers = np.unique(mask, return_counts=True)
    return Counter(dict(zip(values.tolist(), numbers.tolist(), strict=True)))


@dataclass(frozen=True)
class MaskCoding:
    """How stored mask values become class ids 0, …, C-1, or continuous targets in [0, 1].

    Attributes:
        kind: "binary", "classes", "values" (listed by the user), "threshold" or "continuous".
        num_classes: number of classes with the background, 0 for continuous targets.
        values: the stored value of each class; for a threshold, the threshold alone.
        counts: pixels per stored value, over all masks surveyed; none of coloured images.
        num_channels: of continuous targets.
    """

    kind: str
    num_classes: int
    values: tuple[int, ...]
    counts: Mapping[int, int]
    num_channels: int = field(default=1, kw_only=True)

    def encode(self, mask: Array) -> NDArray[np.uint8]:
        """Return class ids, (H, W) uint8, for a mask of stored values."""
        if self.kind == "classes":
            return mask.astype(np.uint8)
        if self.kind == "threshold":
            return (mask >= self.values[0]).astype(np.uint8)
        ids = np.zeros(mask.shape, dtype=np.uint8)
        for class_id, value in enumerate(self.values):
            ids[mask == value] = class_id
        return ids

    def num_learned(self, ignore_index: int | None) -> int:
        """Return how many classes a network must tell apart: not the last one if it is ignored."""
        is_last_ignored = ignore_index is not None and ignore_index == self.num_classes - 1
        return self.num_classes - is_last_ignored

    def describe(self) -> str:
        """Say in one line what the masks hold."""
        if self.kind == "continuous" and not self.counts:
            channels = counted(self.num_channels, "channel")
            return f"images of {channels}, divided by their full scale"
        shown = ", ".join(str(value) for value in sorted(self.counts)[:NUM_VALUES_SHOWN])
        if len(self.counts) > NUM_VALUES_SHOWN:
            shown += ", …"
        meaning = {
            "binary": "binary, 255 is the foreground",
            "classes": f"class ids, {self.num_classes} classes, not rescaled",
            "values": f"{self.num_classes} classes by data.mask_values",
            "threshold": f"binary, {self.values[0] if self.values else 0} and above is foreground",
            "continuous": "continuous targets, divided by their full scale",
        }[self.kind]
        return f"{{{shown}}}: {meaning}"

    @property
    def is_single_valued(self) -> bool:
        """Whether every pixel of every mask has the same value."""
        return len(self.counts) == 1


def decide_coding(
    counts: Mapping[int, int],
    *,
    where: str,
    mask_values: tuple[int, ...] | None = None,
    mask_threshold: int | None = None,
    continuous_allowed: bool = False,
) -> MaskCoding:
    """Decide what the surveyed mask values mean.

    Args:
        counts: pixels per stored value.
        where: how the error names the masks, the folder usually.
        mask_values: the user's list (`data.mask_values`): entry i is class i.
        mask_threshold: the user's threshold (`data.mask_threshold`).
        continuous_allowed: targets are not said to be masks (`data.target_is_mask` is false).

    Raises:
        DataError: the values fit neither; it shows them with their counts and the key to set.
    """
    found = set(counts)
    if mask_threshold is not None:
        return MaskCoding("threshold", 2, (mask_threshold,), counts)
    if mask_values is not None:
        if found - set(mask_values):
            raise DataError(
                f"{where}: values outside data.mask_values {list(mask_values)}: "
                f"{_show(counts, found - set(mask_values))}"
            )
        return MaskCoding("values", len(mask_values), mask_values, counts)
    if found <= {0, 255} and 255 in found:
        return MaskCoding("binary", 2, (0, 255), counts)
    if max(found) < min(MAX_CLASS_IDS, 2 * len(found) + 1):
        # Gaps are allowed (a rare class may be absent), gray levels are not.
        num_classes = max(2, max(found) + 1)
        return MaskCoding("classes", num_classes, tuple(range(num_classes)), counts)
    if continuous_allowed:
        return MaskCoding("continuous", 0, (), counts)
    raise DataError(
        f"{where}: mask values are neither {{0, 255}} nor class ids from 0: "
        f"{_show(counts, found)}; set data.mask_values to the stored value of each class "
        "(background first), or data.mask_threshold for a binary mask with blurred borders"
    )


def _show(counts: Mapping[int, int], values: set[int]) -> str:
    shown = sorted(values, key=lambda value: -counts[value])[:NUM_VALUES_SHOWN]
    text = ", ".join(f"{value} ({counts[value]:,} pixels)" for value in sorted(shown))
    return f"{text}, … ({counted(len(values), 'value')})" if len(values) > len(shown) else text
