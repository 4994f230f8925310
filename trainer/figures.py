"""Finds the figure in a line of `metrics.jsonl` by which epochs, and trials, are compared."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from trainer.bounded import finite
from trainer.errors import ConfigError

DICE_DATASET, DICE_PER_IMAGE = "dice_dataset", "dice_per_image"
# Of a segmentation's evaluation, each from 0 to 1.
AVERAGES = (
    DICE_DATASET,
    DICE_PER_IMAGE,
    "dice_with_background",
    "dice_without_background",
    "pixel_accuracy",
)
LOWER_IS_BETTER = ("loss", "train_loss", "mse", "mae", "hd95", "hd95_px")
_NO_FIGURES = {*LOWER_IS_BETTER, "epoch", "time_s", "learning_rate", "samples_at_once"}
_NO_FIGURES |= {"num_images"}
SLACK = 1e-6  # of a share that is rounded to few digits
MAX_FIGURE = 1e12  # a worker writes them, that nobody trusts
MAX_CLASSES = 1000
MAX_NAMED = 12  # in a message
MAX_NAME = 60


def of_class(key: str) -> str | None:
    """Return the class of a key such as `dice_dataset.lesion`, None of another."""
    figure, dot, name = key.partition(".")
    return name if dot and figure == DICE_DATASET else None


def is_share(key: str) -> bool:
    """Say whether a figure is from 0 to 1."""
    return key in AVERAGES or of_class(key) is not None


def figures_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a line of `metrics.jsonl` has to compare by, by key; null is undefined.

    Its averages, `dice_dataset.CLASS` of each class, the user's own metrics by their names.
    """
    found = {
        name: value
        for name, value in entry.items()
        if name not in _NO_FIGURES and (value is None or finite(value) is not None)
    }
    classes, own = entry.get("per_class"), entry.get("plugins")
    if isinstance(classes, Mapping):
        for name, figures in islice(classes.items(), MAX_CLASSES):
            if isinstance(figures, Mapping) and "dice" in figures:
                found[f"{DICE_DATASET}.{name}"] = figures["dice"]
    if isinstance(own, Mapping):
        found |= {str(name): value for name, value in islice(own.items(), MAX_CLASSES)}
    return found


def figure_of(
    entry: Mapping[str, Any], key: str, where: str, undefined: float | None = None
) -> float:
    """Return one figure of a line of `metrics.jsonl`.

    Args:
        entry: the line.
        key: as `figures_of` has it.
        where: names the setting in errors.
        undefined: what it counts as where it is undefined, see `worst_of`; None refuses that.

    Raises:
        ConfigError: it is not there, undefined, or no number that it can be.
    """
    found = figures_of(entry)
    if key not in found:
        known = [_short(name) for name in islice(found, MAX_NAMED)]
        more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
        has = f"it has {', '.join(known)}{more}" if known else "it has no figure at all"
        raise ConfigError(f"{where}: the evaluation has no {_short(key)!r}; {has}")
    value = undefined if found[key] is None else found[key]
    if value is None:
        raise ConfigError(
            f"{where}: {_short(key)} is undefined (null) in the evaluation after epoch "
            f"{_short(entry.get('epoch'))}; say what that counts as by the metric's `worst`, such "
            "as 0 (docs/plugins.md)"
        )
    low, high = (0.0, 1 + SLACK) if is_share(key) else (-MAX_FIGURE, MAX_FIGURE)
    number = finite(value, low, high)
    if number is None:
        kind = "a number from 0 to 1" if is_share(key) else "a finite number"
        raise ConfigError(f"{where}: {_short(key)}: expected {kind}, received {_short(value)}")
    return number


def _short(value: object) -> str:
    text = "".join(c if c.isprintable() else "?" for c in str(value)[: MAX_NAME + 1])
    return text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}…"
