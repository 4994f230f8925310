"""Compares what a sampler may be told of a trial: what foretells a training with another seed?

    python benchmarks/told_score.py FIRST AGAIN [AGAIN…]
    python benchmarks/told_score.py FIRST --tries [--among M]    # options that train them again

FIRST and AGAIN are recorded curves (`search_efficiency.py --record`) of the same configurations,
trained on the same images with other seeds. Each figure of the first curve (its last epoch, the
mean of its last three, its best, …) is compared with the score that the trainings of AGAIN came
to, their best epoch's mean: by Spearman's rank correlation over all configurations and over their
better half, and by what is lost if the configuration is taken that this figure puts first (of M
drawn at random). Intervals of 95 % are a bootstrap over the configurations.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from machine import describe
from recorded_curves import Config, Recording, by_field, read_recording
from scipy.stats import spearmanr

Floats = npt.NDArray[np.float64]
NUM_DRAWS = 2000
FIGURES: Mapping[str, Callable[[Floats], float]] = {
    "last epoch": lambda curve: float(curve[-1]),
    "mean of the last three": lambda curve: float(curve[-3:].mean()),
    "best mean of three in a row": lambda curve: float(
        np.convolve(curve, np.ones(3) / 3, "valid").max()
    ),
    "mean of the best three": lambda curve: float(np.sort(curve)[-3:].mean()),
    "best epoch (ours)": lambda curve: float(curve.max()),
}


def pairs(first: Recording, again: Sequence[Recording]) -> tuple[list[Floats], Floats]:
    """Return the first curves, and the mean score of each configuration's trainings after it."""
    curves, scores = [], []
    for config in first.configs:
        found = [_same(config, recording) for recording in again]
        peaks = [each.peak for each in found if each is not None]
        if len(peaks) == len(again):
            curves.append(np.array(config.curve))
            scores.append(float(np.mean(peaks)))
    return curves, np.array(scores)


def _same(config: Config, recording: Recording) -> Config | None:
    return next((each for each in recording.configs if _alike(config, each)), None)


def _alike(one: Config, other: Config) -> bool:
    if one.places.keys() != other.places.keys():
        return False
    return all(
        abs(value - other.places[key]) < 1e-6
        if isinstance(value, float)
        else value == other.places[key]
        for key, value in one.places.items()
    )


def correlation(figures: Floats, scores: Floats) -> str:
    """Return Spearman's correlation with its interval."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(scores), size=len(scores)) for _ in range(NUM_DRAWS)]
    found = [spearmanr(figures[draw], scores[draw]).statistic for draw in draws]
    low, high = np.nanpercentile(found, (2.5, 97.5))
    return f"{spearmanr(figures, scores).statistic:.3f} ({low:.3f} .. {high:.3f})"


def loss_of_choice(figures: Floats, scores: Floats, number: int) -> str:
    """Return how far what the figure puts first of `number` is below the best of them."""
    rng = np.random.default_rng(1)
    lost = []
    for _ in range(NUM_DRAWS):
        draw = rng.choice(len(scores), size=number, replace=False)
        lost.append(scores[draw].max() - scores[draw][figures[draw].argmax()])
    return f"{np.mean(lost):.4f}"


def tries(recording: Recording, number: int) -> str:
    """Return the options that have `rml-optimize` train the configurations again."""
    options = []
    for config in recording.configs[:number]:
        values = by_field(recording.space, config.params)
        text = ",".join(f"{key}={value}" for key, value in values.items())
        options += ["--try", text]
    return shlex.join(options)


def main() -> None:
    """Read the arguments, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("again", type=Path, nargs="*")
    parser.add_argument("--tries", action="store_true")
    parser.add_argument("--among", type=int, default=24)
    arguments = parser.parse_args()
    first = read_recording(arguments.first)
    if arguments.tries:
        print(tries(first, arguments.among))
        return
    if not arguments.again:
        parser.error("curves of the same configurations, trained again, are missing")
    curves, scores = pairs(first, [read_recording(path) for path in arguments.again])
    print(describe(torch.device("cpu")))
    print(f"{len(scores)} configurations, trained again {len(arguments.again)} times")
    among = min(arguments.among, len(scores))
    better = scores >= np.median(scores)
    print(f"| told | rank correlation | of the better half | lost by the first of {among} |")
    print("|---|---|---|---|")
    for name, figure in FIGURES.items():
        figures = np.array([figure(curve) for curve in curves])
        print(
            f"| {name} | {correlation(figures, scores)} | "
            f"{correlation(figures[better], scores[better])} | "
            f"{loss_of_choice(figures, scores, among)} |"
        )


if __name__ == "__main__":
    main()
