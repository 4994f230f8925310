"""The figures of an evaluation beside its score, as our worker's metrics give them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer import rundir
from trainer.bounded import finite

WITH, WITHOUT = "dice_with_background", "dice_without_background"
OWN_DATASET, OWN_PER_IMAGE = "dice_dataset_own_size", "dice_per_image_own_size"
FIGURES = ("dice_per_image", WITH, WITHOUT)


def read_figures(run_dir: Path, num_epochs: int, epoch: int | None = None) -> dict[str, float]:
    """Return the figures of an epoch, or of the last one; none from another engine.

    `num_epochs` is that of the run, 0 of one that only evaluates.
    """
    entries = [
        entry
        for entry in rundir.read_metrics(run_dir, num_epochs)
        if epoch is None or entry.get("epoch") == epoch
    ]
    return numbers(entries[-1]) if entries else {}


def numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return those of FIGURES that an entry has: all are Dice, from 0 to 1."""
    found = {name: entry.get(name) for name in FIGURES}
    own = entry.get("own_size")
    if isinstance(own, dict):
        found |= {OWN_DATASET: own.get("dice_dataset"), OWN_PER_IMAGE: own.get("dice_per_image")}
    checked = {name: finite(value, 0, 1 + rundir.SCORE_SLACK) for name, value in found.items()}
    return {name: value for name, value in checked.items() if value is not None}


def describe_averages(figures: Mapping[str, float]) -> str | None:
    """Say both averages over the classes of a network of several channels."""
    if WITH not in figures or WITHOUT not in figures:
        return None
    return f"{figures[WITH]:.4f} with the background, {figures[WITHOUT]:.4f} without it"
