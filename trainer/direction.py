"""Says which of two scores is the better one: the one place that knows it, of both packages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum

UNSCORED = (-math.inf, 0)  # the least of all ranks


class Direction(StrEnum):
    """Which of two scores is the better one, of epochs and of trials: nothing else decides it.

    What is no finite number is never better than what is one.
    """

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"

    @property
    def is_lower_better(self) -> bool:
        """Whether the lower of two scores is the better one."""
        return self is Direction.MINIMIZE

    @property
    def superlative(self) -> str:
        """Return what the best score is: "highest" or "lowest"."""
        return "lowest" if self.is_lower_better else "highest"

    @property
    def remark(self) -> str:
        """Return what is said of a score that is not the better the higher, after a comma."""
        return ", the lower the better" if self.is_lower_better else ""

    def rising(self, score: float) -> float:
        """Return a score such that the greater is the better, for rules that know no direction."""
        return -score if self.is_lower_better else score

    def rank(self, score: float | None, number: int) -> tuple[float, int]:
        """Return a key that is the greatest of the best: of equals the first is the better.

        Args:
            score: of a trial, or of an epoch; UNSCORED comes of None, NaN and infinity.
            number: the trial's, or the epoch's.
        """
        if score is None or not math.isfinite(score):
            return UNSCORED
        return self.rising(score), -number

    def is_better(self, score: float, other: float) -> bool:
        """Say whether a score beats another one; equals do not."""
        return self.rank(score, 0) > self.rank(other, 0)

    def best(self, scores: Iterable[float]) -> float:
        """Return the best of some scores, at least one."""
        return max(scores, key=lambda score: self.rank(score, 0))

    def worst(self, scores: Iterable[float]) -> float:
        """Return the worst of some scores, at least one."""
        return min(scores, key=lambda score: self.rank(score, 0))

    def best_epoch(self, curve: Mapping[int, float]) -> int | None:
        """Return the best epoch of a curve (score by epoch), None where none has a score."""
        ranks = {self.rank(score, epoch): epoch for epoch, score in curve.items()}
        best = max(ranks, default=UNSCORED)
        return ranks[best] if best > UNSCORED else None

    def best_score(self, curve: Mapping[int, float]) -> float | None:
        """Return the score of a curve's best epoch."""
        epoch = self.best_epoch(curve)
        return None if epoch is None else curve[epoch]
