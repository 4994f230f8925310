"""The scores of an evaluation, made of whole numbers of pixels.

Definitions, with I the pixels of a class both predicted and in the target, P predicted, T target:
Dice 2I/(P+T), IoU I/(P+T-I), sensitivity I/T, precision I/P. `dice_dataset` pools I, P and T over
all images, then averages the classes; `dice_per_image` averages over images, where empty
predicted empty counts 1.

Edge cases: the classes averaged are those that occur in the targets, so they are the same for
every network that is compared on them. Targets without any foreground score nothing: both Dice
figures are NaN, and the accuracy 0. Every figure with a denominator of 0 is NaN. Ignored pixels
count nowhere.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Scores:
    """The figures of one evaluation. With one channel the only class is the foreground."""

    dice_dataset: float
    dice_per_image: float
    per_class: dict[str, dict[str, float]]  # NaN where undefined; see the module's docstring
    pixel_accuracy: float
    classes_averaged: tuple[str, ...]
    num_images: int
    # The averages over several channels, of which `dice_dataset` is one: with class 0 and without.
    dice_with_background: float | None = None
    dice_without_background: float | None = None
    is_classification: bool = False
    plugins: dict[str, float] = field(default_factory=dict)  # the user's own; NaN: undefined

    @property
    def accuracy(self) -> float:
        """What the test log calls so: `dice_dataset`, or the share of right answers.

        0 where there is none, as that log has numbers only.
        """
        value = self.pixel_accuracy if self.is_classification else self.dice_dataset
        return 0.0 if math.isnan(value) else value

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object, in which an undefined figure is null (JSON has no NaN)."""
        plain = asdict(self)
        if plain.pop("is_classification"):
            plain["accuracy"] = self.accuracy
        plain["plugins"] = {name: or_none(value) for name, value in self.plugins.items()}
        if not self.plugins:
            del plain["plugins"]
        for name in ("dice_dataset", "dice_per_image", "pixel_accuracy"):
            plain[name] = or_none(plain[name])
        for name in ("dice_with_background", "dice_without_background"):
            if plain[name] is None:
                del plain[name]
            else:
                plain[name] = or_none(plain[name])
        plain["classes_averaged"] = list(self.classes_averaged)
        plain["per_class"] = {
            name: {figure: or_none(value) for figure, value in figures.items()}
            for name, figures in self.per_class.items()
        }
        return plain


def ratio(part: int, whole: int) -> float:
    """Return part / whole, NaN for none of nothing."""
    return part / whole if whole else math.nan


def or_none(value: float) -> float | None:
    """Return a figure for JSON and tables, where one that is undefined is None."""
    return None if math.isnan(value) else value
