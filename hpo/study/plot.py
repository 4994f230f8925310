"""`rml-study plot`: a study as pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.errors import UsageError
from hpo.study.common import (
    OutputDir,
    Storage,
    StorageFile,
    StudyName,
    database_url,
    opened_study,
    say,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

MAX_CURVES = 200
MAX_COLUMNS = 4
COLOURS = {"COMPLETE": "tab:blue", "PRUNED": "tab:orange"}


def plot(
    study_name: StudyName = None,
    storage: Storage = None,
    storage_file: StorageFile = None,
    output_dir: OutputDir = Path(),
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Folder of the pictures (default: OUTPUT_DIR/plots)"),
    ] = None,
) -> None:
    """Write history.png, parameters.png and curves.png."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise UsageError(
            "matplotlib is not installed; try pip install 'rml-optimize[plot]'"
        ) from None
    mpl.use("Agg")
    from hpo.storage import finished_trials, score

    with opened_study(database_url(storage, storage_file, output_dir), study_name) as study:
        trials = [trial for trial in finished_trials(study) if score(trial) is not None]
        if not trials:
            raise UsageError(f"study {study.study_name!r} has no finished trial yet")
        folder = (to or output_dir / "plots").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        drawings: dict[str, Callable[[list[FrozenTrial]], Any]] = {
            "history.png": _history,
            "parameters.png": _parameters,
            "curves.png": _curves,
        }
        for file, draw in drawings.items():
            figure = draw(trials)
            figure.suptitle(f"{study.study_name}: {len(trials)} trials")
            figure.savefig(folder / file, dpi=120)
            say(f"wrote {folder / file}")


def _history(trials: list[FrozenTrial]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for state, colour in COLOURS.items():
        chosen = [trial for trial in trials if trial.state.name == state]
        axes.scatter(
            [trial.number for trial in chosen], _scores(chosen), s=16, c=colour,
            label=state.lower(),
        )  # fmt: skip
    best, line = float("-inf"), []
    for value in _scores(trials):
        best = max(best, value)
        line.append(best)
    axes.step([trial.number for trial in trials], line, where="post", c="black", label="best")
    axes.set(xlabel="trial", ylabel="dice_dataset")
    axes.legend()
    return figure


def _parameters(trials: list[FrozenTrial]) -> Any:
    from matplotlib.figure import Figure

    names = sorted({name for trial in trials for name in trial.params})
    columns = max(1, min(MAX_COLUMNS, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(3.4 * columns, 3 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for name, axes in zip(names, grid.flat, strict=False):
        chosen = [trial for trial in trials if name in trial.params]
        values = [trial.params[name] for trial in chosen]
        if not all(isinstance(value, int | float) for value in values):
            values = [str(value) for value in values]
        axes.scatter(values, _scores(chosen), s=14, c=[COLOURS[t.state.name] for t in chosen])
        if getattr(chosen[0].distributions[name], "log", False):
            axes.set_xscale("log")
        axes.set_xlabel(name)
    for row in grid:
        row[0].set_ylabel("dice_dataset")
    return figure


def _curves(trials: list[FrozenTrial]) -> Any:
    from matplotlib.figure import Figure

    from hpo.storage import score

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    ranked = sorted(trials, key=lambda trial: (score(trial), -trial.number))
    for trial in ranked[-MAX_CURVES:]:
        epochs = sorted(trial.intermediate_values)
        is_best = trial is ranked[-1]
        axes.plot(
            epochs, [trial.intermediate_values[epoch] for epoch in epochs],
            c="black" if is_best else COLOURS[trial.state.name], lw=2 if is_best else 0.8,
            alpha=1 if is_best else 0.5, label=f"best: trial {trial.number}" if is_best else None,
        )  # fmt: skip
    axes.set(xlabel="epoch", ylabel="dice_dataset")
    axes.legend()
    return figure


def _scores(trials: list[FrozenTrial]) -> list[float]:
    from hpo.storage import score

    return [value for trial in trials if (value := score(trial)) is not None]
