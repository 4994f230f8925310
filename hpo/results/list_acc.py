"""Writes `list_acc.json`: the tutorial's summary of all trials, with more."""

from __future__ import annotations

import json
import textwrap
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

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
        for trial in trials:
            if is_paused(trial) or trial.number not in self._final:
                entry = json.dumps(list_entry(trial), indent=2)
                self._texts[trial.number] = textwrap.indent(entry, "  ")
                self._final |= set() if is_paused(trial) else {trial.number}
        entries = ",\n".join(self._texts[trial.number] for trial in trials)
        rundir.write_atomic(self._path, f"[\n{entries}\n]\n" if trials else "[]\n")
        now = time.monotonic()
        self._due = now + REWRITE_SHARE * (now - began)


def write_list_acc(study: optuna.Study, path: Path) -> None:
    """Write `list_acc.json` from the database: one entry for each finished or paused trial."""
    TrialList(path).write(study)


def list_entry(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial as the tutorial's list has it, with more after the tutorial's five keys."""
    provenance = run_of(trial.user_attrs)
    config = provenance.get("config", {})
    return {
        "max_acc": score(trial),
        "optimizer": get_path(config, "optimizer.type"),
        "lr": get_path(config, "optimizer.learning_rate"),
        "loss": get_path(config, "loss.function"),
        "epoch_max_acc": best_epoch(trial),
        "number": trial.number,
        "state": recorded_state(trial),
        "last_acc": last_score(trial),
        "seconds": seconds_of(trial),
        "epochs": max(trial.intermediate_values, default=0),
        "params": trial.params,
        "seed": config.get("seed"),
        "host": provenance.get("host"),
    }
