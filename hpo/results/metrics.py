"""The figures of an evaluation beside its score, as our worker's metrics give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from hpo.dataset.intervals import MAX_CLASSES
from hpo.objective import DEFAULT, Objective
from trainer import rundir
from trainer.bounded import finite, whole
from trainer.figures import figures_of

WITH, WITHOUT = "dice_with_background", "dice_without_background"
OWN_DATASET, OWN_PER_IMAGE = "dice_dataset_own_size", "dice_per_image_own_size"
MAX_NAME = 100  # of a class; a worker writes it, that nobody trusts
MAX_FIGURES = 300
FIGURES = ("dice_per_image", WITH, WITHOUT)


def read_figures(run_dir: Path, num_epochs: int, epoch: int | None = None) -> dict[str, float]:
    """Return the figures of an epoch, or of the last one; none from another engine.

    `num_epochs` is that of the run, 0 of one that only evaluates.
    """
    entry = _entry(run_dir, num_epochs, epoch)
    dice = DEFAULT.read_or_none(entry)
    return numbers(entry) | ({} if dice is None else {DEFAULT.key: dice})


def read_scores(run_dir: Path, num_epochs: int, objective: Objective) -> dict[int, float]:
    """Return the score of each epoch that a run's metrics have."""
    found = {}
    for entry in rundir.read_metrics(run_dir, num_epochs):
        epoch = whole(entry.get("epoch"), 0, max(1, num_epochs))
        value = objective.read_or_none(entry)
        if epoch is not None and value is not None:
            found[epoch] = value
    return found


def curve_of(
    run_dir: Path,
    config: Mapping[str, Any],
    evaluations: Iterable[rundir.Evaluation],
    objective: Objective,
) -> dict[int, float]:
    """Return score by epoch of a run that has ended, whose test log has those evaluations."""
    if objective.is_default:
        return {entry.epoch: entry.accuracy for entry in evaluations}
    return read_scores(run_dir, int(config["num_epochs"]), objective)


def read_score(run_dir: Path, objective: Objective) -> float | None:
    """Return the score of a run that only evaluates, None where its metrics have none."""
    scores = read_scores(run_dir, 0, objective)
    return scores[max(scores)] if scores else None


def read_classes(
    run_dir: Path, num_epochs: int, epoch: int | None = None
) -> dict[str, float | None]:
    """Return class -> Dice of an epoch, or of the last one, pooled over all images.

    None of a class that is neither in the masks nor predicted. Nothing of a network with one
    class, whose Dice is the score, and of another engine. `num_epochs` as for `read_figures`.
    """
    found = _entry(run_dir, num_epochs, epoch).get("per_class")
    if not isinstance(found, dict) or not 1 < len(found) <= MAX_CLASSES:
        return {}
    return {
        str(name)[:MAX_NAME]: finite(figures.get("dice"), 0, 1 + rundir.SCORE_SLACK)
        if isinstance(figures, dict)
        else None
        for name, figures in found.items()
    }


def all_figures(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return each number of an entry; of classes and of the user's own metrics by their names."""
    named = {**entry, **figures_of(entry), **numbers(entry)}
    named.pop("epoch", None)
    found = {}
    for name, value in islice(named.items(), MAX_FIGURES):
        number = finite(value)
        if number is not None and name and name.isprintable():
            found[name[:MAX_NAME]] = number
    return found


def parse_dice(text: str) -> float:
    """Return a Dice that a table gives as text.

    Raises:
        ValueError: it is none.
    """
    value = finite(float(text), 0, 1)
    if value is None:
        raise ValueError(f"{text} is no Dice")
    return value


def _entry(run_dir: Path, num_epochs: int, epoch: int | None) -> dict[str, Any]:
    entries = [
        entry
        for entry in rundir.read_metrics(run_dir, num_epochs)
        if epoch is None or entry.get("epoch") == epoch
    ]
    return entries[-1] if entries else {}


def describe_classes(classes: Mapping[str, float | None] | None) -> str | None:
    """Return `background 0.9876, lesion 0.7412`; None where no classes are told apart."""
    if not classes:
        return None
    return ", ".join(
        f"{name} {'–' if value is None else f'{value:.4f}'}" for name, value in classes.items()
    )


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
