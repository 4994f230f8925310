"""What a training step and an evaluation leave on record: for the logs, and for who decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.metrics.counts import SegmentationCounts
    from trainer.metrics.regression import RegressionCounts, RegressionScores
    from trainer.metrics.scores import Scores


@dataclass(frozen=True)
class Step:
    """One training step, as the train log records it."""

    time_s: float
    epoch: int
    batch: int
    loss: float
    gradient_norm: float


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a set found; no loss without a loss function, no scores without masks."""

    loss: float | None
    counts: SegmentationCounts | RegressionCounts | None
    scores: Scores | RegressionScores | None
    at_size: str = "network"  # of what the scores are, see `metrics.at_size`
    # At the images' own size, where both were asked for.
    own_counts: SegmentationCounts | None = None
    own_scores: Scores | None = None
