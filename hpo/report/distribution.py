"""How the Dice of the images is distributed."""

from __future__ import annotations

import statistics
from typing import Any

from hpo.report.cases import ImageScores

NUM_BINS = 25


def distribution(scores: ImageScores) -> dict[str, Any]:
    """Return a histogram over [0, 1] of each class, with its quartiles."""
    columns = list(zip(*scores.dice, strict=True))
    return {
        "classes": [
            {"name": name, **_summary(list(values)), "pooled": scores.per_class.get(name, {})}
            for name, values in zip(scores.classes, columns, strict=True)
        ]
    }


def _summary(values: list[float]) -> dict[str, Any]:
    bins = [0] * NUM_BINS
    for value in values:
        bins[min(NUM_BINS - 1, max(0, int(value * NUM_BINS)))] += 1
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else []
    return {
        "bins": bins,
        "quartiles": [round(value, 4) for value in quartiles or values * 3],
        "mean": round(statistics.fmean(values), 4),
        "num": len(values),
        "zero": sum(value == 0 for value in values),
    }
