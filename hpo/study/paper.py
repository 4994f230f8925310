"""The table of `rml-study confirm`, in Markdown and in LaTeX (plain `tabular`)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from hpo.dataset.intervals import Grouping, interval_of_runs
from hpo.objective import DEFAULT, Objective
from hpo.records import run_of
from hpo.results.metrics import WITH, WITHOUT
from hpo.store.study import score
from hpo.wording import ABSENT, describe_values, format_score, latex
from trainer import rundir
from trainer.figures import DICE_DATASET
from trainer.keypath import get_path
from trainer.wording import counted

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from hpo.study.retrain import Run


def write_tables(
    folder: Path,
    study: str,
    trials: Sequence[FrozenTrial],
    runs: Sequence[Run],
    grouping: Grouping,
    objective: Objective = DEFAULT,
) -> str:
    """Write confirm.md and confirm.tex from finished runs; return the Markdown table."""
    by_trial = {t.number: [run for run in runs if run.trial.number == t.number] for t in trials}
    rows = [_row(trial, by_trial[trial.number], grouping, objective) for trial in trials]
    results = [run.result() or {} for run in runs]
    num_images = next((entry["num_images"] for entry in results), 0)
    chosen = "the best configuration"
    if len(trials) > 1:
        chosen = f"the {len(trials)} best configurations, each"
    of_what = "" if objective.is_default else f" ({objective})"
    notes = [
        f"Study {study}: {chosen} trained anew; scores on "
        f"{counted(num_images, 'test image')} that chose nothing.",
        "Mean ± standard deviation (n - 1) over trainings with different seeds; the epoch was "
        "chosen on the validation part.",
        f"Interval: 95 % percentile bootstrap over {_drawn(grouping)} of the mean over seeds; it "
        "does not hold what varies between trainings.",
        "dice_dataset pools the pixels of all images, dice_per_image averages over images. "
        f"selected: the search's score{of_what}, the best of its trials, so optimistic.",
        *(
            [
                "dice_dataset is averaged over classes, of which the background is "
                f"{'one' if _has_background(trials[0]) else 'none'}; both averages are given."
            ]
            if any(entry.get(WITH) is not None for entry in results)
            else []
        ),
    ]
    table = str(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
    text = f"{table}\n\n" + "\n\n".join(notes) + "\n"
    rundir.write_atomic(folder / "confirm.md", text)
    escaped = [{latex(k): latex(v) for k, v in row.items()} for row in rows]
    tex = tabulate(escaped, headers="keys", tablefmt="latex_raw", disable_numparse=True)
    comments = "".join(f"% {note}\n" for note in notes)
    rundir.write_atomic(folder / "confirm.tex", f"{comments}{tex}\n")
    return table


def _has_background(trial: FrozenTrial) -> bool:
    config = run_of(trial.user_attrs)["config"]
    return get_path(config, "metrics.include_background") is True


def _drawn(grouping: Grouping) -> str:
    if grouping.is_known:
        return "patients (groups of images)"
    return "images, and too narrow where several are of one patient,"


def _row(
    trial: FrozenTrial, runs: Sequence[Run], grouping: Grouping, objective: Objective
) -> dict[str, str]:
    results = [run.result() or {} for run in runs]
    num_images = max((entry.get("num_images", 0) for entry in results), default=0)
    folders = [run.test_dir for run in runs]
    interval = interval_of_runs(folders, grouping, num_images=num_images)
    return {
        "trial": str(trial.number),
        "values": describe_values(trial.params),
        "selected": format_score(score(trial, objective.direction) or 0.0, objective.key),
        "seeds": str(len(results)),
        **(
            {}
            if objective.is_default
            else {objective.key: spread(results, "score", objective.key)}
        ),
        "dice_dataset": spread(results, "dice_dataset"),
        "95 % interval": str(interval) if interval else ABSENT,
        "dice_per_image": spread(results, "dice_per_image"),
        **{
            name: spread(results, key)
            for key, name in ((WITH, "with background"), (WITHOUT, "without"))
            if any(entry.get(key) is not None for entry in results)
        },
        **{
            f"Dice of {name}": spread([e.get("dice_per_class") or {} for e in results], name)
            for name in _classes(results)
        },
    }


def _classes(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the classes whose Dice some result has, in their order."""
    return list(dict.fromkeys(name for e in results for name in e.get("dice_per_class") or {}))


def spread(results: Sequence[Mapping[str, Any]], key: str, objective: str = DICE_DATASET) -> str:
    """Return mean ± standard deviation of a figure; the mean alone for one training."""
    values = [entry[key] for entry in results if entry.get(key) is not None]
    if not values:
        return ABSENT
    mean = format_score(statistics.fmean(values), objective)
    return (
        f"{mean} ± {format_score(statistics.stdev(values), objective)}"
        if len(values) > 1
        else mean
    )
