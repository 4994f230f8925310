"""What one and the same answer for every pixel scores: a result below it is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpo.dataset.scored_parts import ScoredPart, Scoring

MARGIN = 0.005  # masks are surveyed at their own size and scored at the network's
NUM_SHOWN = 6
EVERYWHERE = "Dice if every pixel were {}"


@dataclass(frozen=True)
class TrivialScore:
    """The `dice_dataset` of a network that sees one class everywhere.

    Attributes:
        class_name: the class.
        dice_dataset: the average over the classes that the part's score averages.
        of_class: the Dice of that class alone; of every other class it is 0.
    """

    class_name: str
    dice_dataset: float
    of_class: float


def trivial_scores(
    part: ScoredPart, scoring: Scoring, *, has_one_channel: bool
) -> tuple[TrivialScore, ...]:
    """Return the score of each class as the only answer, the best first.

    Args:
        part: what its masks hold.
        scoring: what counts.
        has_one_channel: the network knows the foreground only, so its Dice is the average.
    """
    counts = part.counts
    occurs = counts > 0
    averaged = occurs.copy()
    averaged[0] &= scoring.include_background and not has_one_channel
    dices = 2 * counts / (counts.sum() + counts)
    found = [
        TrivialScore(
            scoring.short_name(c),
            float(dices[c] / averaged.sum()) if averaged[c] else 0.0,
            float(dices[c]),
        )
        for c in np.flatnonzero(occurs).tolist()
    ]
    return tuple(sorted(found, key=lambda entry: -entry.dice_dataset))


def figures_of(scores: Sequence[TrivialScore]) -> dict[str, str]:
    """Return class -> what a network scores that sees it everywhere, for `describe_trivial`."""
    return {
        entry.class_name: f"{entry.dice_dataset:.4f}"
        if entry.dice_dataset == entry.of_class
        else f"{entry.dice_dataset:.4f} as scored, {entry.of_class:.4f} of the class alone"
        for entry in scores
    }


def describe_trivial(figures: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    """Say what each answer scores, the first few of them.

    Args:
        figures: part -> class -> its figure.

    Returns:
        What is meant, and its figure in each part.
    """
    names = dict.fromkeys(name for of_part in figures.values() for name in of_part)
    return [
        (
            EVERYWHERE.format(name),
            ", ".join(
                f"{of_part[name]} ({part})" for part, of_part in figures.items() if name in of_part
            ),
        )
        for name in [*names][:NUM_SHOWN]
    ]


def no_better_than(value: float, scores: Sequence[TrivialScore]) -> str | None:
    """Say that a score does not beat the best of these, if it does not."""
    best = max(scores, key=lambda entry: entry.dice_dataset, default=None)
    if best is None or value > best.dice_dataset + MARGIN:
        return None
    return (
        f"{value:.4f} is no better than the {EVERYWHERE.format(best.class_name)}: "
        f"{best.dice_dataset:.4f} on these masks"
    )
