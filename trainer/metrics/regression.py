"""Scores of continuous targets: how far predictions are from values, which no Dice tells.

R² is 1 - the squared error / that of the targets' mean, over all values of all images: 1 is
perfect, 0 no better than the mean. It is what the test log calls accuracy.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.rundir import write_atomic

NUM_SUMS = 5  # values; their sum; of their squares; of squared and of absolute errors


@dataclass(frozen=True)
class RegressionScores:
    """The figures of one evaluation; NaN where undefined."""

    r2: float
    mse: float
    mae: float
    num_images: int

    @property
    def accuracy(self) -> float:
        """What the test log calls so: R², 0 where there is none."""
        return 0.0 if math.isnan(self.r2) else self.r2

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object, in which an undefined figure is null."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }


class RegressionCounts:
    """Collects sums over an evaluation, batch after batch, where the predictions are."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: list[npt.NDArray[np.float64]] = []  # per image (NUM_SUMS,)
        self._pending: list[Tensor] = []
        self._ends: list[int] = []

    def __getstate__(self) -> dict[str, Any]:
        """Return what processes send each other: numbers."""
        self._settle()
        return self.__dict__

    def update(self, names: Sequence[str], output_NCS: Tensor, target_NCS: Tensor) -> None:
        """Add a batch of outputs and of what they should be."""
        self._names.extend(names)
        output, target = (values.double().flatten(1) for values in (output_NCS, target_NCS))
        error = output - target
        count = torch.full_like(target[:, 0], target.shape[1])
        sums = (target.sum(1), target.square().sum(1), error.square().sum(1), error.abs().sum(1))
        self._pending.append(torch.stack((count, *sums), 1))

    def end_batch(self) -> None:
        """Want the accuracy of what was added so far, see `running_accuracies`."""
        self._ends.append(len(self._names))

    def running_accuracies(self) -> list[float]:
        """Return the accuracy at each `end_batch` since the last call."""
        self._settle()
        totals = np.cumsum(np.reshape(self._sums, (-1, NUM_SUMS)), 0)
        found = [_scores(totals[end - 1], end).accuracy for end in self._ends]
        self._ends = []
        return found

    def merge(self, other: RegressionCounts) -> None:
        """Add what another process found of other images."""
        self._settle()
        other._settle()
        self._names += other._names
        self._sums += other._sums

    def scores(self) -> RegressionScores:
        """Return the scores of the images seen so far."""
        self._settle()
        # Exact sums: the same however the images are batched or ordered.
        columns = np.reshape(self._sums, (-1, NUM_SUMS)).T
        return _scores(np.array([math.fsum(column) for column in columns]), len(self._names))

    def write_per_image_csv(self, path: Path, own_size: object = None) -> None:
        """Write each image's mean squared and absolute error as CSV, at once or not at all."""
        self._settle()
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", "mse", "mae"])
        for name, (count, _, _, squared, absolute) in zip(self._names, self._sums, strict=True):
            writer.writerow([name, squared / count, absolute / count])
        write_atomic(path, text.getvalue())

    def _settle(self) -> None:
        """Bring the sums to the host, all at once: reading them waits for the device."""
        if self._pending:
            self._sums.extend(torch.cat(self._pending).cpu().numpy())
            self._pending.clear()


def _scores(sums: npt.NDArray[np.float64], num_images: int) -> RegressionScores:
    count, total, squares, squared_error, absolute_error = map(float, sums)
    if not count:
        return RegressionScores(math.nan, math.nan, math.nan, num_images)
    variation = squares - total * total / count
    # What is left of equal values is rounding.
    is_constant = variation <= 1e-12 * squares
    r2 = math.nan if is_constant else 1 - squared_error / variation
    return RegressionScores(r2, squared_error / count, absolute_error / count, num_images)
