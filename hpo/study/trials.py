"""`rml-study trials`: all trials as a table."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.command_line import as_options
from hpo.console import console
from hpo.errors import UsageError
from hpo.objective import Objective, objective_of
from hpo.records import end_of, run_of
from hpo.study.common import opened_study, say, say_prose, show_json
from hpo.study.options import AsJson, StudyOptions
from hpo.wording import ABSENT, format_score, format_seconds

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True, kw_only=True)
class TrialsOptions:
    """Options of `rml-study trials`."""

    top: Annotated[
        int | None,
        typer.Option("--top", min=1, help="The best finished ones only, the best first"),
    ] = None
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV")] = False
    as_json: AsJson = False
    study: StudyOptions


@as_options
def trials(options: TrialsOptions) -> None:
    """Show all trials: values, score, state, time and host.

    In the order of their numbers, or with --top the best finished ones, the best first.
    """
    from hpo.store.study import COUNTED, best_first

    if options.as_csv and options.as_json:
        raise UsageError("--csv and --json exclude each other; give one")
    with opened_study(options.study) as study:
        found = study.get_trials(deepcopy=False)
        objective = objective_of(study.user_attrs)
    if options.top is not None:
        counted = [trial for trial in found if trial.state in COUNTED]
        found = best_first(counted, objective.direction)[: options.top]
    rows = [_row(trial, objective) for trial in found]
    if options.as_json:
        show_json(rows)
    elif options.as_csv:
        _write_csv(rows, objective)
    else:
        _show(rows, objective)


def _row(trial: FrozenTrial, objective: Objective) -> dict[str, Any]:
    from hpo.store.states import state_name
    from hpo.store.study import best_epoch, score, seconds_of

    seconds = seconds_of(trial)
    end, run = end_of(trial.user_attrs), run_of(trial.user_attrs)
    return {
        "trial": trial.number,
        "state": state_name(trial),
        objective.key: score(trial, objective.direction),
        "epoch": best_epoch(trial, objective.direction),
        "epochs": max(trial.intermediate_values, default=0),
        "seconds": None if seconds is None else round(seconds, 1),
        "host": end.get("host") or run.get("host"),
        "params": trial.params,
    }


def _write_csv(rows: Sequence[Mapping[str, Any]], objective: Objective) -> None:
    fixed = ("trial", "state", objective.key, "epoch", "epochs", "seconds", "host")
    names = list(dict.fromkeys(name for row in rows for name in row["params"]))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*fixed, *names])
    for row in rows:
        writer.writerow([*(row[key] for key in fixed), *(row["params"].get(n) for n in names)])


def _show(rows: Sequence[Mapping[str, Any]], objective: Objective) -> None:
    """Print one line for each; where they do not fit the screen, the values go below it."""
    from tabulate import tabulate

    if not rows:
        say("no trials yet")
        return
    name = objective.short_name
    hosts = {row["host"] for row in rows if row["host"]}
    shown = [
        {
            "trial": row["trial"],
            "state": row["state"],
            name: ABSENT
            if row[objective.key] is None
            else format_score(row[objective.key], objective.key),
            "epoch": ABSENT if row["epoch"] is None else f"{row['epoch']} of {row['epochs']}",
            "time": ABSENT if row["seconds"] is None else format_seconds(row["seconds"]),
            **({"host": row["host"] or ABSENT} if len(hosts) > 1 else {}),
        }
        for row in rows
    ]
    values = [short_values(row["params"]) for row in rows]
    align = ["right" if key in ("trial", name) else "left" for key in shown[0]]
    text = tabulate(shown, headers="keys", disable_numparse=True, colalign=align)
    head, rule, *lines = text.splitlines()
    room = console.width - len(rule) - 2
    if max(map(len, values)) <= room or not console.is_terminal:
        say(f"{head}  values\n{rule}  {'-' * max(6, *map(len, values))}")
        for line, value in zip(lines, values, strict=True):
            say(f"{line:<{len(rule)}}  {value}".rstrip())
        return
    say(f"{head}\n{rule}")
    for line, value in zip(lines, values, strict=True):
        say(line.rstrip())
        say_prose(f"       {value}")


def short_values(params: Mapping[str, Any]) -> str:
    """Return a trial's values, each by the last part of its name."""
    from hpo.wording import describe_values

    return describe_values({name.partition("[")[0]: value for name, value in params.items()})
