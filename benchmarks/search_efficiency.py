"""Compares ways to search on recorded learning curves, in simulated time.

    python benchmarks/search_efficiency.py [--curves FILE…] [--trials 50] [--among M]
    python benchmarks/search_efficiency.py --quick
    python benchmarks/search_efficiency.py --record FOLDER --to FILE    # a study's curves

Each repetition draws M of the recorded configurations in a random order, which is that of random
search; each row searches among them with N trials, on 1, 4 and 16 slots. Without `--among`, M is
N: every row comes to the best in the end, unless it stops it, and a sampler can only come to it
sooner. With more, it chooses. What a sampler proposes becomes the nearest configuration that was
not used yet (1 for each category that differs, plus the distance of the positions within each
range), and the sampler is told that one. "TPE" beside "random" shows what is left of a sampler
then.

Cost is time times slots, in epochs. "until" columns are the mean cost until a trial has that
score, of the best of the M, over random search's on all of them, and "0.005 of all" that cost over
the whole cost of N trials that are all trained to their end. A search that ends without it is
charged, on top of what it spent, with random search from the beginning; "lost" says how many do.
Regret is how far the best score so far is below the best of the M, at a share of the cost of N
whole trials.
Intervals of 95 % are a bootstrap over the repetitions.
"""

from __future__ import annotations

import argparse
import json
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from machine import describe
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from recorded_curves import Recording, by_field, read_recording, write_recording
from replay import Method, Replay, Trace

from hpo.errors import HpoError
from hpo.plan.first_trials import NUM_LIKE, best_like
from hpo.plan.pruners import PRUNERS, PrunerSettings
from hpo.plan.samplers import SAMPLERS, SamplerSettings, derived_seed
from hpo.plan.spec import num_warmup_epochs
from hpo.study.options import StudyOptions
from trainer.direction import Direction

HERE = Path(__file__).parent
SLOTS = (1, 4, 16)
NEAR = 0.005  # of the best score
TARGETS: Mapping[str, Callable[[float], float]] = {
    "99 %": lambda best: 0.99 * best,
    "99.9 %": lambda best: 0.999 * best,
    f"within {NEAR}": lambda best: best - NEAR,
}
SHARES = (0.1, 0.2, 0.5, 1.0)  # of the cost of N whole trials
NUM_DRAWS = 1000


@dataclass
class Row:
    """What came of one method on some slots: a figure for each repetition.

    Attributes:
        costs: target -> cost until it, with what is charged if it was not reached, over the cost
            of N whole trials.
        lost: whether it ended without a score within `NEAR` of the best.
        regrets: share of the full cost -> regret.
        spent: epochs trained over those of N whole trials.
    """

    costs: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in TARGETS})
    lost: list[bool] = field(default_factory=list)
    regrets: dict[float, list[float]] = field(default_factory=lambda: {s: [] for s in SHARES})
    spent: list[float] = field(default_factory=list)


def methods(recording: Recording, num_trials: int, other: Recording | None) -> dict[str, Method]:
    """Return the rows: name -> how it searches."""
    tpe = partial(_make_sampler, num_trials)
    median, hyperband = (
        partial(_make_pruner, name, recording.num_epochs, num_trials)
        for name in ("median", "hyperband")
    )
    ours = {"make_sampler": tpe, "promotes": True}
    found = {
        "random": Method(),
        "random, median": Method(make_pruner=median),
        "random, hyperband": Method(make_pruner=hyperband),
        "random, asha by quota alone": Method(promotes=True, goes_on=False),
        "random, asha": Method(promotes=True),
        "TPE": Method(make_sampler=tpe, shares=True),
        "TPE, each range alone": Method(make_sampler=tpe),
        "TPE, each range alone, median": Method(make_sampler=tpe, make_pruner=median),
        "TPE, hyperband": Method(make_sampler=tpe, shares=True, make_pruner=hyperband),
        "TPE, asha (ours)": Method(**ours, shares=True),
        "ours, each range alone": Method(**ours),
        "ours, usual values first": Method(**ours, shares=True, first=usual(recording)),
    }
    if other is not None:
        best = best_like(recording.space, other.trials(), other.name, Direction.MAXIMIZE)
        first = [by_field(recording.space, each.values) for each in best]
        found[f"ours, --like {other.name}"] = Method(**ours, shares=True, first=first)
        worst = sorted(recording.configs, key=lambda config: config.peak)[:NUM_LIKE]
        bad = [by_field(recording.space, config.params) for config in worst]
        found[f"ours, the {NUM_LIKE} worst first"] = Method(**ours, shares=True, first=bad)
    return found


def usual(recording: Recording) -> list[dict[str, Any]]:
    """Return the values that text books start from, as far as the study searches them."""
    optimizers = recording.space.choices("optimizer.type")
    rates = {"Adam": 0.001, "RMSprop": 0.001, "SGD": 0.1}
    return [
        {"optimizer.type": name, "optimizer.learning_rate": rate, "loss.function": "Dice"}
        for name, rate in rates.items()
        if name in optimizers
    ]


def _make_sampler(num_trials: int, repetition: int, number: int) -> BaseSampler:
    settings = SamplerSettings(
        seed=derived_seed(repetition, number, "sampler"),
        study_seed=repetition,
        trial_number=number,
        num_trials=num_trials,
    )
    return SAMPLERS["tpe"](settings)


def _make_pruner(name: str, num_epochs: int, num_trials: int) -> BasePruner:
    settings = PrunerSettings(
        num_warmup_epochs=num_warmup_epochs(num_epochs),
        num_epochs=num_epochs,
        num_trials=num_trials,
    )
    return PRUNERS[name](settings)


def compare(
    recording: Recording,
    rows: Mapping[str, Method],
    *,
    num_trials: int,
    among: int,
    num_slots: int,
    repetitions: int,
) -> dict[str, Row]:
    """Replay every row in every repetition."""
    found = {name: Row() for name in rows}
    full_cost = num_trials * recording.num_epochs
    for repetition in range(repetitions):
        order = random.Random(repetition).sample(range(len(recording.configs)), among)
        best = max(recording.configs[index].peak for index in order)
        anew = Replay(recording, order, Method(), repetition, len(order)).run(num_slots)
        for name, method in rows.items():
            is_random = method == Method()  # it goes on after N: that is where 1 is
            trace = Replay(recording, order, method, repetition, num_trials).run(num_slots)
            row = found[name]
            row.lost.append(trace.cost_until(best - NEAR) is None)
            row.spent.append(trace.num_epochs / full_cost)
            for share, regrets in row.regrets.items():
                regrets.append(best - trace.best_at(share * full_cost))
            for target, score_of in TARGETS.items():
                cost = _charged(anew if is_random else trace, anew, score_of(best))
                row.costs[target].append(cost / full_cost)
    return found


def _charged(trace: Trace, anew: Trace, score: float) -> float:
    cost = trace.cost_until(score)
    if cost is None:
        beginning = anew.cost_until(score)
        assert beginning is not None
        cost = trace.cost + beginning
    return cost


def interval(values: Sequence[float], over: Sequence[float] | None = None) -> list[float]:
    """Return the mean, or the ratio of two means, with its interval over the repetitions."""
    drawn = np.random.default_rng(0).integers(len(values), size=(NUM_DRAWS, len(values)))
    numerator, denominator = np.asarray(values, dtype=float), np.ones(len(values))
    if over is not None:
        denominator = np.asarray(over, dtype=float)
    means = numerator[drawn].mean(axis=1) / denominator[drawn].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return [float(numerator.mean() / denominator.mean()), float(low), float(high)]


def figures(found: Mapping[str, Row]) -> dict[str, dict[str, list[float]]]:
    """Return row -> column -> figure with its interval."""
    base = found["random"]
    return {
        name: {
            **{
                f"until {target}": interval(costs, base.costs[target])
                for target, costs in row.costs.items()
            },
            f"{NEAR} of all": interval(row.costs[f"within {NEAR}"]),
            "lost": interval(list(map(float, row.lost))),
            **{f"regret at {share:.0%}": interval(v) for share, v in row.regrets.items()},
            "spent": interval(row.spent),
        }
        for name, row in found.items()
    }


def show(table: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Print one table as Markdown."""
    columns = list(next(iter(table.values())))
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, cells in table.items():
        print(f"| {name} | {' | '.join(_cell(cells[column], column) for column in columns)} |")


def _cell(figure: Sequence[float], column: str) -> str:
    mean, low, high = figure
    if column == "lost":
        return f"{mean:.0%}"
    if column == "spent":
        return f"{mean:.2f}"
    digits = 3 if column.startswith("regret") else 2
    return f"{mean:.{digits}f} ({low:.{digits}f} .. {high:.{digits}f})"


def measure(options: argparse.Namespace) -> None:
    """Replay each file of curves, and print its tables."""
    recordings = [read_recording(path) for path in options.curves]
    found: dict[str, Any] = {"machine": describe(torch.device("cpu"))}
    for i, recording in enumerate(recordings):
        others = [each for each in recordings if each is not recording]
        other = others[i % len(others)] if others else None
        num_configs = len(recording.configs)
        among = min(options.among or options.trials, num_configs)
        num_trials = min(options.trials, among)
        rows = methods(recording, num_trials, other)
        if options.rows:
            rows = {name: rows[name] for name in rows if name in {"random", *options.rows}}
        for num_slots in options.slots:
            print(
                f"\n{recording.name}: {num_trials} trials of {recording.num_epochs} epochs among "
                f"{among} of {num_configs}, {num_slots} slots, {options.repetitions} repetitions\n"
            )
            table = figures(
                compare(
                    recording,
                    rows,
                    num_trials=num_trials,
                    among=among,
                    num_slots=num_slots,
                    repetitions=options.repetitions,
                )
            )
            show(table)
            found.setdefault(recording.name, {})[str(num_slots)] = table
            if options.json:
                options.json.write_text(json.dumps(found, indent=1))
    print(f"\n{found['machine']}")


def main() -> None:
    """Read the options and measure, or record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", type=Path, nargs="+", help="files of recorded curves")
    parser.add_argument("--trials", type=int, default=50, help="N of each search")
    parser.add_argument("--among", type=int, help="M configurations (default: N)")
    parser.add_argument("--repetitions", type=int, default=50)
    parser.add_argument("--slots", type=int, nargs="+", default=SLOTS)
    parser.add_argument("--rows", nargs="+", help="these, by name, beside random")
    parser.add_argument("--quick", action="store_true", help="in seconds: 3 repetitions of 8")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--record", type=Path, help="output folder of a study to record")
    parser.add_argument("--study-name", help="of the study to record")
    parser.add_argument("--to", type=Path, help="file for its curves")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    try:
        if options.record is not None:
            if options.to is None:
                parser.error("--record needs --to FILE")
            study = StudyOptions(output_dir=options.record, study_name=options.study_name)
            print(f"{write_recording(study, {}, options.to)} curves in {options.to}")
            return
        if options.quick:
            options.trials, options.repetitions, options.slots = 8, 3, (1, 4)
        options.curves = options.curves or sorted((HERE / "curves").glob("*.json"))
        measure(options)
    except HpoError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
