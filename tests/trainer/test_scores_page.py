"""docs/scores.md: its figures, ours and those of MONAI, come out again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from monai.losses import DiceLoss
from monai.metrics import DiceMetric
from torch.nn.functional import one_hot

from trainer.config.loss import Loss
from trainer.losses import build_loss
from trainer.metrics.counts import SegmentationCounts

PAGE = (Path(__file__).parents[2] / "docs/scores.md").read_text()
TARGET = torch.tensor(
    [[[1, 1, 1, 1], [0] * 4], [[0] * 4, [0] * 4], [[1, 0, 0, 0], [0] * 4]]
)  # fmt: skip
LOW = [0.1] * 4
FOREGROUND = torch.tensor([[[0.9, 0.9, 0.8, 0.2], LOW], [LOW, LOW], [[0.3, 0.1, 0.6, 0.1], LOW]])
PREDICTED = (FOREGROUND > 0.5).long()
LOGITS = torch.logit(FOREGROUND)[:, None]
BOTH = torch.cat([torch.zeros_like(LOGITS), LOGITS], 1)


def row(name: str) -> list[float]:
    """Return the figures of a row of the page."""
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {name}"))
    return [float(cell) for cell in re.findall(r"\| (0\.\d{4})(?= \|)", line)]


def shown(*values: float) -> list[float]:
    return [round(float(value), 4) for value in values]


def metric(**settings: bool) -> list[float]:
    found = []
    for with_background in (False, True):
        theirs = DiceMetric(include_background=with_background, **settings)
        theirs(one_hot(PREDICTED, 2).movedim(-1, 1), one_hot(TARGET, 2).movedim(-1, 1))
        found.append(theirs.aggregate().item())
    return shown(*found)


def test_scores_are_those_of_the_page() -> None:
    ours = []
    for num_channels in (1, 2):
        counts = SegmentationCounts(num_channels, None)
        counts.update(["a", "b", "c"], PREDICTED, TARGET)
        ours.append(counts.scores())
    assert row("`dice_dataset` | 0") == shown(*(scores.dice_dataset for scores in ours))
    assert row("`dice_per_image` | 0") == shown(*(scores.dice_per_image for scores in ours))
    assert row("MONAI `DiceMetric(ignore_empty=False)`") == metric(ignore_empty=False)
    assert row("MONAI `DiceMetric()`") == metric()


def test_losses_are_those_of_the_page() -> None:
    def ours(logits: torch.Tensor, activation: str, **settings: object) -> float:
        config = Loss(function="Dice", source=activation, **settings)
        return build_loss(config, activation, logits.shape[1])(logits, TARGET).item()

    weights = (1.0, 3.0)
    softmax = {"softmax": True, "to_onehot_y": True, "batch": True}
    exact = {"smooth_nr": 1e-7, "smooth_dr": 1e-7}
    target = TARGET[:, None]
    values = [
        ours(LOGITS, "sigmoid"), ours(BOTH, "softmax"), ours(BOTH, "softmax", weight=weights),
    ]  # fmt: skip
    assert row("Dice | 0") == shown(*values)
    assert row("smp `DiceLoss`") == shown(*values)
    assert ours(BOTH, "softmax", weight=(2.0, 6.0)) == pytest.approx(values[2])
    assert row("MONAI `DiceLoss(batch=True)`") == shown(
        DiceLoss(sigmoid=True, batch=True, **exact)(LOGITS, target.float()),
        DiceLoss(**softmax, **exact)(BOTH, target),
        DiceLoss(**softmax, **exact, weight=torch.tensor(weights))(BOTH, target),
    )
    assert row("MONAI `DiceLoss()`") == shown(DiceLoss(sigmoid=True)(LOGITS, target.float()))
