"""`rml-study plot`: a study as pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.command_line import as_options
from hpo.errors import UsageError
from hpo.folders import WorkFolders
from hpo.objective import DEFAULT, Objective, objective_of
from hpo.study.common import opened_study, say
from hpo.study.options import StudyOptions
from trainer.wording import counted

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

MAX_CURVES = 200
MAX_COLUMNS = 4
LABEL_CHARS = 16
COLOURS = {  # by `hpo.store.states`
    "complete": "tab:blue",
    "pruned": "tab:orange",
    "paused": "tab:green",
}


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """Options of `rml-study plot`."""

    to: Annotated[
        Path | None,
        typer.Option("--to", help="Folder of the pictures (default: OUTPUT_DIR/plots)"),
    ] = None
    study: StudyOptions


@as_options
def plot(options: PlotOptions) -> None:
    """Write history.png, parameters.png, importance.png and curves.png."""
    import matplotlib as mpl

    mpl.use("Agg")
    from hpo.store.study import finished_trials, is_paused, score

    with opened_study(options.study) as study:
        paused = [trial for trial in study.get_trials(deepcopy=False) if is_paused(trial)]
        found = sorted([*finished_trials(study), *paused], key=lambda trial: trial.number)
        objective = objective_of(study.user_attrs)
        trials = [t for t in found if score(t, objective.direction) is not None]
        if not trials:
            raise UsageError(
                f"study {study.study_name!r} has no finished trial of rml-optimize yet"
            )
        folders = WorkFolders.of(options.study.output_dir, study.study_name)
        folder = (options.to or folders.plots).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        drawings: dict[str, Callable[[list[FrozenTrial]], Any]] = {
            "history.png": partial(_history, objective=objective),
            "parameters.png": partial(_parameters, objective=objective),
            "importance.png": partial(_importance, objective=objective),
            "curves.png": partial(_curves, objective=objective),
        }
        for file, draw in drawings.items():
            figure = draw(trials)
            figure.suptitle(f"{study.study_name}: {counted(len(trials), 'trial')}")
            figure.savefig(folder / file, dpi=120)
            say(f"wrote {folder / file}")


def _history(trials: list[FrozenTrial], objective: Objective = DEFAULT) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for state, chosen in _by_state(trials).items():
        numbers = [trial.number for trial in chosen]
        axes.scatter(numbers, _scores(chosen, objective), s=16, c=COLOURS[state], label=state)
    finished = _finished(trials)
    direction = objective.direction
    line = list(accumulate(_scores(finished, objective), lambda *two: direction.best(two)))
    if finished:
        axes.step([t.number for t in finished], line, where="post", c="black", label="best")
    axes.set(xlabel="trial", ylabel=objective.key)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend()
    return figure


def _parameters(trials: list[FrozenTrial], objective: Objective = DEFAULT) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator

    from hpo.store.states import state_name
    from hpo.store.study import best_of

    names = _searched(trials)
    columns = max(1, min(MAX_COLUMNS, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(3.4 * columns, 3 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    best = best_of(_finished(trials), objective.direction)
    for name, axes in zip(names, grid.flat, strict=False):
        chosen = [trial for trial in trials if name in trial.params]
        places = _places(axes, [trial.params[name] for trial in chosen])
        for state, colour in COLOURS.items():
            points = [
                (x, y)
                for x, y, trial in zip(places, _scores(chosen, objective), chosen, strict=True)
                if state_name(trial) == state
            ]
            if points:
                axes.scatter(*zip(*points, strict=True), s=14, alpha=0.7, c=colour)
        if best is not None and best in chosen:
            place = places[chosen.index(best)]
            axes.scatter(
                [place], _scores([best], objective), s=90, marker="*", c="black", zorder=3
            )
        if getattr(chosen[0].distributions[name], "log", False):
            axes.set_xscale("log")
            # a decade has one name; its parts are named only where there is no decade to name
            axes.xaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(1, 0.4)))
            axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.set_xlabel(name)
    for row in grid:
        row[0].set_ylabel(objective.key)
    marks = [Line2D([], [], c=COLOURS[s], marker="o", ls="", label=s) for s in _by_state(trials)]
    if best is not None:
        marks.append(Line2D([], [], c="black", marker="*", ms=9, ls="", label="best"))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)
    return figure


def _importance(trials: list[FrozenTrial], objective: Objective = DEFAULT) -> Any:
    from matplotlib.figure import Figure

    from hpo.report.importance import MIN_TRIALS, importances

    shares = importances(_finished(trials), _searched(trials), objective.direction)
    found = sorted(shares.items(), key=lambda entry: entry[1])
    figure = Figure(figsize=(8, 1.4 + 0.35 * max(1, len(found))), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([name for name, _ in found], [share for _, share in found], color="tab:blue")
    axes.bar_label(bars, [f"{share:.0%}" for _, share in found], padding=4)
    axes.set_xlim(0, 1.08 * max([share for _, share in found], default=1))
    axes.set_xticks([])
    axes.set_xlabel("share of what separates the best tenth of trials (PED-ANOVA)")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    if not found:
        axes.text(0.5, 0.5, f"fewer than {MIN_TRIALS} trials", ha="center", va="center",
                  transform=axes.transAxes)  # fmt: skip
        axes.set_yticks([])
    return figure


def _by_state(trials: list[FrozenTrial]) -> dict[str, list[FrozenTrial]]:
    """Return the trials of each state that there are any of, in the order of COLOURS."""
    from hpo.store.states import state_name

    found = {state: [t for t in trials if state_name(t) == state] for state in COLOURS}
    return {state: chosen for state, chosen in found.items() if chosen}


def _finished(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return those that may be the best: what a paused trial comes to is open."""
    from hpo.store.study import COUNTED

    return [trial for trial in trials if trial.state in COUNTED]


def _searched(trials: list[FrozenTrial]) -> list[str]:
    """Return the parameters that had a choice, those of one optimizer (`…[Adam]`) last."""
    distributions = {name: d for trial in trials for name, d in trial.distributions.items()}
    names = sorted(distributions, key=lambda name: ("[" in name, name))
    return [name for name in names if not distributions[name].single()] or names


def _places(axes: Any, values: list[Any]) -> list[float]:
    """Return where on the x axis values stand: numbers at theirs, names in columns, spread."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return values
    labels = sorted({str(value) for value in values})
    axes.set_xticks(range(len(labels)), [textwrap.fill(label, LABEL_CHARS) for label in labels])
    axes.set_xlim(-0.5, len(labels) - 0.5)
    seen: dict[str, int] = {}
    places = []
    for label in map(str, values):
        count = seen[label] = seen.get(label, 0) + 1
        # the golden ratio's multiples: never beside each other, the same on every call
        places.append(labels.index(label) + 0.4 * (count * 0.618 % 1 - 0.5))
    return places


def _curves(trials: list[FrozenTrial], objective: Objective = DEFAULT) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from hpo.store.states import state_name
    from hpo.store.study import best_first, best_of

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    best = best_of(_finished(trials), objective.direction)
    others = best_first((each for each in trials if each is not best), objective.direction)
    others = others[: MAX_CURVES - 1][::-1]  # the better ones on top
    for trial in [*others, *([] if best is None else [best])]:
        epochs = sorted(trial.intermediate_values)
        is_best = trial is best
        axes.plot(
            epochs,
            [trial.intermediate_values[epoch] for epoch in epochs],
            c="black" if is_best else COLOURS[state_name(trial)],
            lw=2 if is_best else 0.8,
            alpha=1 if is_best else 0.5,
            marker="o" if len(epochs) == 1 else None,
            ms=3,
            label=f"best: trial {trial.number}" if is_best else None,
        )
    axes.set(xlabel="epoch", ylabel=objective.key)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for state in _by_state(others):
        axes.plot([], [], c=COLOURS[state], label=state)
    axes.legend()
    return figure


def _scores(trials: list[FrozenTrial], objective: Objective) -> list[float]:
    from hpo.store.study import score

    found = (score(trial, objective.direction) for trial in trials)
    return [value for value in found if value is not None]
