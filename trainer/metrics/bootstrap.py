"""Says how sure a Dice is: a bootstrap over images or groups, from the counts of `per_image.csv`.

NumPy only, no torch: the driver computes the interval of the best model with this module, and
`trainer.metrics.counts` takes its definition of Dice from here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.errors import DataError

Counts = npt.NDArray[np.int64]  # (..., classes, 3): intersection, predicted, target in pixels
Floats = npt.NDArray[np.float64]

COUNTS = ("intersection", "predicted", "target")
TARGET = COUNTS.index("target")
MAX_PIXELS = 2**40  # of an image: the sums of thousands are exact in float64
_RESAMPLES_AT_ONCE = 100  # 10,000 images: 8 MB of multiplicities


def column(class_name: str, figure: str) -> str:
    """Return the name of a column of `per_image.csv`, such as `lesion_target`."""
    return f"{class_name}_{figure}"


def dice_of_counts(counts: npt.ArrayLike) -> Floats:
    """Return 2 |A and B| / (|A| + |B|) over the last axis; 1 where both are empty."""
    both, predicted, target = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    size = predicted + target
    return np.where(size > 0, 2 * both / np.where(size > 0, size, 1), 1.0)


def mean_of_present(values: Floats, counts: npt.ArrayLike) -> Floats:
    """Average over the classes that occur in a target; NaN if none does.

    values has shape (..., classes), counts (..., classes, 3), the result (...).
    """
    present = np.asarray(counts)[..., TARGET] > 0
    number = present.sum(-1)
    total = np.where(present, values, 0.0).sum(-1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def rows_of_csv(text: str) -> list[dict[str, str]]:
    """Return the rows of a `per_image.csv`, as text."""
    return list(csv.DictReader(io.StringIO(text)))


def counts_of_rows(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> Counts:
    """Return the counts (images, classes, 3) of those classes, from numbers or their text.

    Raises:
        DataError: a row lacks a class, or a count is no number of pixels, or more pixels are
            shared than there are.
    """
    columns = [column(name, count) for name in classes for count in COUNTS]
    try:
        flat = [[int(row[name]) for name in columns] for row in rows]
    except KeyError as error:
        raise DataError(f"per-image counts: column {error.args[0]!r} is missing") from None
    except (TypeError, ValueError) as error:
        raise DataError(f"per-image counts: {error}") from None
    if any(not 0 <= count <= MAX_PIXELS for row in flat for count in row):
        raise DataError(f"per-image counts: expected 0 to {MAX_PIXELS} pixels")
    counts = np.array(flat, dtype=np.int64).reshape(len(rows), len(classes), len(COUNTS))
    if (counts[..., 0] > counts[..., 1:].min(-1)).any():
        raise DataError("per-image counts: an intersection is larger than what intersects")
    return counts


def bootstrap_interval(
    rows: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile interval of `dice_dataset` when images, or groups, are drawn anew.

    They are drawn with replacement, as many as there are (Efron and Tibshirani 1993, ch. 13).
    What varies between trainings is not in it. Images of one patient are no independent draws:
    without their groups the interval is too narrow.

    Args:
        rows: those of `SegmentationCounts.per_image_rows()`, or of `per_image.csv`.
        classes: the classes to average, `Scores.classes_averaged`.
        groups: of each image, what it is drawn with: its patient.
        num_resamples: how often they are drawn.
        seed: the same seed and rows give the same interval.
        level: the share of resamples inside the interval.
    """
    scores = bootstrap_scores(rows, classes, groups=groups, num_resamples=num_resamples, seed=seed)
    return interval(scores, level)


def interval(scores: Floats, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of resampled scores, of those that drew a class at all."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(scores, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_scores(
    rows: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Floats:
    """Return `dice_dataset` of each resample of images or groups, shape (num_resamples,).

    Two models that were evaluated on the same images, in the same order, get the same draws: the
    scores may be averaged, or subtracted, resample by resample. Arguments as above.
    """
    if not rows or not classes:
        raise DataError("a bootstrap interval needs at least one image and one class")
    counts = counts_of_rows(rows, classes).astype(np.float64)
    if not counts[..., TARGET].any():
        raise DataError("a bootstrap interval needs a class that occurs in a target")
    if groups is not None:
        counts = _sums(counts, groups)
    generator = np.random.default_rng(seed)
    num_drawn = len(counts)
    scores = []
    for start in range(0, num_resamples, _RESAMPLES_AT_ONCE):
        draws = min(_RESAMPLES_AT_ONCE, num_resamples - start)
        # How often each image is drawn, as one bincount: drawing the multinomial is 10 x slower.
        picked = generator.integers(num_drawn, size=(draws, num_drawn))
        picked += num_drawn * np.arange(draws)[:, None]
        times = np.bincount(picked.ravel(), minlength=draws * num_drawn)
        times = times.reshape(draws, num_drawn)
        # float64 sums pixel counts exactly up to 2**53.
        pooled = np.tensordot(times.astype(np.float64), counts, axes=1)
        scores.append(mean_of_present(dice_of_counts(pooled), pooled))
    return np.concatenate(scores)


def _sums(counts: Floats, groups: Sequence[str]) -> Floats:
    """Add the images of each group, in the order of their first images."""
    numbers: dict[str, int] = {}
    of_images = [numbers.setdefault(name, len(numbers)) for name in groups]
    sums = np.zeros((len(numbers), *counts.shape[1:]))
    np.add.at(sums, of_images, counts)
    return sums
