"""Says what is best: the highest score, and of equals the earliest. It does not import Optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

DIRECTION: Final = "maximize"  # as Optuna calls it

UNSCORED = (-math.inf, 0)


def rank(score: float | None, number: int) -> tuple[float, int]:
    """Return a key that is the greatest of the best; the least, UNSCORED, without a score.

    Args:
        score: of a trial, or of an epoch.
        number: the trial's, or the epoch's.
    """
    return UNSCORED if score is None else (score, -number)


def peak_epoch(curve: Mapping[int, float]) -> int | None:
    """Return the best epoch of a curve (score by epoch), None before the first."""
    return max(curve, key=lambda epoch: rank(curve[epoch], epoch), default=None)


def peak(curve: Mapping[int, float]) -> float | None:
    """Return the score of a curve's best epoch."""
    epoch = peak_epoch(curve)
    return None if epoch is None else curve[epoch]
