"""Writes `list_acc.json`: the tutorial's summary of all trials, with more."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from hpo.objective import DEFAULT, Objective, objective_of
from hpo.records import run_of
from hpo.store.study import (
    COUNTED,
    best_epoch,
    is_paused,
    last_score,
    recorded_state,
    score,
    seconds_of,
)
from trainer import rundir
from trainer.keypath import get_path

REWRITE_SHARE = 20  # it is rewritten for at most a 20th of the time


class TrialList:
    """Writes `list_acc.json`, again and again: a finished trial changes no more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._texts: dict[int, str] = {}
        self._final: set[int] = set()
        self._is_ours = False
        self._due = 0.0  # `time.monotonic()`

    def is_due(self) -> bool:
        """Say whether writing has taken less than 1 / REWRITE_SHARE of the time since."""
        return time.monotonic() >= self._due

    def write(self, study: optuna.Study) -> None:
        """Write an entry for each finished or paused trial, as `json.dumps(…, indent=2)` would."""
        began = time.monotonic()
        trials = [
            trial
            for trial in study.get_trials(deepcopy=False)
            if trial.state in COUNTED or is_paused(trial)
        ]
        if not self._is_ours:
            _keep_foreign(self._path, study.study_name, trials)
            self._is_ours = True
        objective = objective_of(study.user_attrs)
        for trial in trials:
            if trial.number not in self._final:
                found = list_entry(trial, objective)
                entry = json.dumps({**found, "study": study.study_name}, indent=2)
                self._texts[trial.number] = textwrap.indent(entry, "  ")
                self._final |= set() if is_paused(trial) else {trial.number}
        entries = ",\n".join(self._texts[trial.number] for trial in trials)
        rundir.write_atomic(self._path, f"[\n{entries}\n]\n" if trials else "[]\n")
        now = time.monotonic()
        self._due = now + REWRITE_SHARE * (now - began)


def _keep_foreign(path: Path, name: str, trials: Sequence[FrozenTrial]) -> None:
    """Give the list of another study its name: `list_acc-STUDY.json`."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        entries = None
    if entries == []:
        return
    known = {trial.number: trial.params for trial in trials}
    first = entries[0] if isinstance(entries, list) and isinstance(entries[0], dict) else {}
    # Earlier releases have not written whose list it is: then its trials tell.
    is_same = known.get(first.get("number", -1)) == first.get("params", ())
    other = first.get("study") or ("" if is_same else "before")
    if not other or other == name:
        return
    kept = path.with_name(f"{path.stem}-{Path(str(other)).name[:100]}{path.suffix}")
    path.replace(kept)


def write_list_acc(study: optuna.Study, path: Path) -> None:
    """Write `list_acc.json` from the database: one entry for each finished or paused trial."""
    TrialList(path).write(study)


def list_entry(trial: FrozenTrial, objective: Objective = DEFAULT) -> dict[str, Any]:
    """Return a trial as the tutorial's list has it, with more after the tutorial's five keys.

    `max_acc` is the score, whatever it is: `objective` says. Of a score that is minimized the
    greatest is the worst, so there it is None, and so is what belongs to it: whoever takes the
    greatest for the best must not get the worst. `score` has it then.
    """
    provenance = run_of(trial.user_attrs)
    config = provenance.get("config", {})
    direction = objective.direction
    scored = score(trial, direction), best_epoch(trial, direction), last_score(trial)
    max_acc, epoch_max_acc, last_acc = scored
    minimized: dict[str, Any] = {}
    if direction.is_lower_better:
        max_acc = epoch_max_acc = last_acc = None
        names = ("score", "epoch", "last_score")
        minimized = {"direction": direction, **dict(zip(names, scored, strict=True))}
    return {
        "max_acc": max_acc,
        "optimizer": get_path(config, "optimizer.type"),
        "lr": get_path(config, "optimizer.learning_rate"),
        "loss": get_path(config, "loss.function"),
        "epoch_max_acc": epoch_max_acc,
        "number": trial.number,
        "state": recorded_state(trial),
        "last_acc": last_acc,
        "seconds": seconds_of(trial),
        "epochs": max(trial.intermediate_values, default=0),
        "params": trial.params,
        "seed": config.get("seed"),
        "host": provenance.get("host"),
        "objective": objective.key,
        **minimized,
    }
