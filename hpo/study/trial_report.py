"""What is known of one trial, for JSON and for the screen."""

from __future__ import annotations

import datetime as dt
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.console import console
from hpo.keys import ATTEMPT, REQUEUED_FROM
from hpo.objective import DEFAULT, Objective
from hpo.records import end_of, run_of
from hpo.results.metrics import describe_classes
from hpo.run.progress import optuna_means
from hpo.study.common import say, say_prose
from hpo.wording import fold, format_score
from trainer.direction import Direction

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

BARS = "▁▂▃▄▅▆▇█"
MAX_BARS = 60
LOG_LINES = 15
MIN_CHARS = 24  # of a value, however narrow the screen is


def describe_trial(trial: FrozenTrial, objective: Objective = DEFAULT) -> dict[str, Any]:
    """Return what is known of a trial, ready for JSON."""
    from hpo.store.durations import first_start
    from hpo.store.study import (
        best_epoch,
        is_foreign,
        last_score,
        recorded_state,
        score,
        seconds_of,
    )

    provenance, end = run_of(trial.user_attrs), end_of(trial.user_attrs)
    seconds = seconds_of(trial)
    values = trial.intermediate_values
    return {
        "trial": trial.number,
        "state": recorded_state(trial).lower(),
        **({} if objective.is_default else {"objective": objective.key}),
        **({"direction": objective.direction} if objective.direction.is_lower_better else {}),
        objective.key: score(trial, objective.direction),
        "foreign_value": trial.value if is_foreign(trial) else None,
        "epoch": best_epoch(trial, objective.direction),
        "dice_per_class": end.get("dice_per_class"),
        f"last_{objective}": last_score(trial),
        "epochs": max(values, default=0),
        "started": _time(first_start(trial)),
        "seconds": None if seconds is None else round(seconds, 1),
        "durations": end.get("seconds"),
        "end": end.get("end"),
        "message": end.get("message"),
        "log_tail": end.get("log_tail"),
        "attempt": trial.user_attrs.get(ATTEMPT),
        "requeued_from": trial.user_attrs.get(REQUEUED_FROM),
        **{
            key: provenance.get(key)
            for key in (
                "host", "user", "uid", "gpus", "cpu", "launcher", "image", "code", "seed",
                "data", "run_dir",
            )
        },
        "params": trial.params,
        "curve": {str(epoch): values[epoch] for epoch in sorted(values)},
        "config": provenance.get("config"),
    }  # fmt: skip


def _time(moment: dt.datetime | None) -> str | None:
    return moment.isoformat(" ", "seconds") if moment else None


def sparkline(values: Sequence[float], direction: Direction = DEFAULT.direction) -> str:
    """Draw a curve as one line of bars, from its least to its greatest value.

    Of a long one each bar is of several epochs, and shows the best of them.
    """
    if not values:
        return ""
    step = max(1, -(-len(values) // MAX_BARS))
    shown = [direction.best(values[i : i + step]) for i in range(0, len(values), step)]
    low, high = min(shown), max(shown)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0
    return "".join(BARS[round((value - low) * scale)] for value in shown)


def show_trial(entry: dict[str, Any], *, with_log: bool) -> None:
    """Print what is known of a trial, with the end of its log."""
    from tabulate import tabulate

    objective = entry.get("objective", DEFAULT.key)
    shown = partial(format_score, name=objective)
    rows: list[tuple[str, object]] = [
        (key, _text(key, value, objective))
        for key, value in entry.items()
        if value is not None and key not in ("params", "curve", "config", "log_tail")
    ]
    rows += list(entry["params"].items())
    if console.is_terminal:
        room = max(MIN_CHARS, console.width - 2 - max(len(key) for key, _ in rows))
        rows = [(key, fold(str(value), room)) for key, value in rows]
    say(tabulate(rows, tablefmt="plain", disable_numparse=True))
    curve = list(entry["curve"].values())
    if curve:
        direction = Direction(entry.get("direction", DEFAULT.direction))
        best = direction.best(curve)
        say_prose(
            f"curve: {sparkline(curve, direction)} first {shown(curve[0])}, best {shown(best)} "
            f"(epoch {entry['epoch']}), last {shown(curve[-1])} (epoch {entry['epochs']})"
        )
    if with_log:
        _show_log(entry)


def _text(key: str, value: Any, objective: str) -> str:
    if key == "gpus":
        return ", ".join(f"{gpu.get('name')} ({gpu.get('uuid')})" for gpu in value) or "none"
    if key == "cpu":
        return f"{value.get('name')}, {value.get('threads')} thread(s)"
    if key == "durations":
        return ", ".join(f"{name.replace('_', ' ')} {s:.1f} s" for name, s in value.items())
    if key == "test":
        from hpo.run.final_test import TestScore

        return str(TestScore(**value))
    if key == "dice_per_class":
        return describe_classes(value) or "–"
    if key == "data":
        return f"hash {value.get('hash')}, folder {value.get('folder')}"
    if key == "best_of_optuna":
        return optuna_means(
            value["trial"], value[objective], objective, is_foreign=value["is_foreign"]
        )
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items() if part)
    if key in (objective, f"last_{objective}"):
        return format_score(value, objective)
    return str(value)


def _show_log(entry: dict[str, Any]) -> None:
    from hpo.launchers.log import read_tail

    folder = entry["run_dir"]
    tail = read_tail(Path(folder), LOG_LINES) if folder else ""
    if not tail and folder and not Path(folder).is_dir():
        where = f"on host {entry['host']}" if entry["host"] != socket.gethostname() else "gone"
        say(f"its folder is {where}: {folder}")
    tail = tail or entry["log_tail"] or ""
    if tail:
        say("its log ends:")
        for line in tail.splitlines():
            say(f"  | {line}")
