"""The command `rml-study`: what is in a database of studies."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import optuna
import typer
from optuna.storages import get_storage
from optuna.trial import FrozenTrial, TrialState
from tabulate import tabulate

from hpo.cli import console, run_app
from hpo.database import default_url, open_storage
from hpo.errors import UsageError
from hpo.progress import describe_values
from hpo.provenance import PROVENANCE
from hpo.storage import TITLE, best_epoch, score
from trainer.config_errors import hint

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
    help="Look at studies and their trials."
)  # fmt: skip

Storage = Annotated[
    str | None,
    typer.Option("--storage", help="SQLAlchemy URL (default: OUTPUT_DIR/rml_optimize.db)"),
]
OutputDir = Annotated[Path, typer.Option("--output-dir", help="Where rml_optimize.db is")]
StudyName = Annotated[
    str | None, typer.Option("--study-name", help="The study (default: the only one)")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


@app.command("list")
def list_studies(
    storage: Storage = None, output_dir: OutputDir = Path(), as_json: AsJson = False
) -> None:
    """List the studies in a database."""
    opened = _open(storage, output_dir)
    rows = []
    for study in optuna.get_all_study_names(opened):
        trials = optuna.load_study(study_name=study, storage=opened).get_trials(deepcopy=False)
        best = _best(trials)
        rows.append(
            {
                "study": study,
                "finished": sum(_counts(trial) for trial in trials),
                "running": sum(trial.state == TrialState.RUNNING for trial in trials),
                "failed": sum(trial.state == TrialState.FAIL for trial in trials),
                "best Dice": score(best) if best else None,
            }
        )
    _show(rows, as_json, empty="no studies")


@app.command()
def status(
    study_name: StudyName = None,
    storage: Storage = None,
    output_dir: OutputDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Show where a study stands: trials by state, best so far, last failures."""
    study = _load(storage, output_dir, study_name)
    trials = study.get_trials(deepcopy=False)
    states = Counter(trial.state.name.lower() for trial in trials)
    best = _best(trials)
    if as_json:
        entry = {
            "study": study.study_name,
            "states": dict(states),
            "best": _describe(best) if best else None,
        }
        console.print(json.dumps(entry, indent=2), markup=False)
        return
    title = study.user_attrs.get(TITLE, "")
    console.print(f"study {study.study_name} ({title})", markup=False)
    counted = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    console.print(f"  trials: {counted or 'none yet'}", markup=False)
    if best is not None:
        console.print(
            f"  best: trial {best.number}, Dice {score(best):.4f}, {describe_values(best.params)}",
            markup=False,
        )
    recent = sorted(trials, key=lambda trial: trial.number)[-10:]
    _show([_describe(trial) for trial in recent], as_json=False, empty="")


@app.command()
def best(
    study_name: StudyName = None,
    storage: Storage = None,
    output_dir: OutputDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Show the best trial with its parameters and its config."""
    study = _load(storage, output_dir, study_name)
    trial = _best(study.get_trials(deepcopy=False))
    if trial is None:
        raise UsageError(f"study {study.study_name!r} has no finished trial yet")
    entry = {
        **_describe(trial),
        "params": trial.params,
        "config": trial.user_attrs.get(PROVENANCE, {}).get("config"),
    }
    if as_json:
        console.print(json.dumps(entry, indent=2), markup=False)
        return
    rows = [(key, value) for key, value in entry.items() if key not in ("params", "config")]
    rows += list(trial.params.items())
    console.print(tabulate(rows, tablefmt="grid"), markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_app(app, arguments)


def _open(url: str | None, output_dir: Path) -> optuna.storages.BaseStorage:
    if url is None and not (output_dir / "rml_optimize.db").exists():
        raise UsageError(
            f"no rml_optimize.db in {output_dir.absolute()}; name the database with --storage "
            "or its folder with --output-dir"
        )
    if url is not None and url.startswith("sqlite:///"):
        database = Path(url.removeprefix("sqlite:///"))
        if not database.exists():
            raise UsageError(f"--storage: no such file: {database}")
    return get_storage(open_storage(url or default_url(output_dir)))


def _load(url: str | None, output_dir: Path, name: str | None) -> optuna.Study:
    storage = _open(url, output_dir)
    names = optuna.get_all_study_names(storage)
    if name is None:
        if not names:
            raise UsageError("the database has no studies yet")
        if len(names) != 1:
            raise UsageError(f"--study-name is needed; the database has: {', '.join(names)}")
        name = names[0]
    if name not in names:
        raise UsageError(f"no study {name!r} in the database; {hint(name, names)}")
    return optuna.load_study(study_name=name, storage=storage)


def _counts(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _best(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    scored = [trial for trial in trials if _counts(trial) and score(trial) is not None]
    return max(scored, key=lambda trial: (score(trial), -trial.number), default=None)


def _describe(trial: FrozenTrial) -> dict[str, object]:
    duration = trial.duration
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "Dice": score(trial),
        "epoch": best_epoch(trial),
        "epochs": max(trial.intermediate_values, default=0),
        "seconds": round(duration.total_seconds(), 1) if duration else None,
        "host": trial.user_attrs.get(PROVENANCE, {}).get("host"),
        "parameters": describe_values(trial.params),
    }


def _show(rows: list[dict[str, object]], as_json: bool, *, empty: str) -> None:
    if as_json:
        console.print(json.dumps(rows, indent=2), markup=False)
    elif rows:
        console.print(tabulate(rows, headers="keys", floatfmt=".4f"), markup=False)
    elif empty:
        console.print(empty)


if __name__ == "__main__":
    sys.exit(main())
