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
from hpo.store.study import best_epoch, finished_trials, last_score, score
from trainer import rundir
from trainer.keypath import get_path

REWRITE_SHARE = 20  # it is rewritten for at most a 20th of the time


class TrialList:
    """Writes `list_acc.json`, again and again: a finished trial changes no more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._texts: dict[int, str] = {}
        self._due = 0.0  # `time.monotonic()`

    def is_due(self) -> bool:
        """Say whether writing has taken less than 1 / REWRITE_SHARE of the time since."""
        return time.monotonic() >= self._due

    def write(self, study: optuna.Study) -> None:
        """Write one entry for each finished trial, as `json.dumps(…, indent=2)` would."""
        began = time.monotonic()
        trials = finished_trials(study)
        for trial in trials:
            if trial.number not in self._texts:
                entry = json.dumps(list_entry(trial), indent=2)
                self._texts[trial.number] = textwrap.indent(entry, "  ")
        entries = ",\n".join(self._texts[trial.number] for trial in trials)
        rundir.write_atomic(self._path, f"[\n{entries}\n]\n" if trials else "[]\n")
        now = time.monotonic()
        self._due = now + REWRITE_SHARE * (now - began)


def write_list_acc(study: optuna.Study, path: Path) -> None:
    """Write `list_acc.json` from the database: one entry for each finished trial."""
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
        "state": trial.state.name,
        "last_acc": last_score(trial),
        "seconds": trial.duration.total_seconds() if trial.duration else None,
        "epochs": max(trial.intermediate_values, default=0),
        "params": trial.params,
        "seed": config.get("seed"),
        "host": provenance.get("host"),
    }
