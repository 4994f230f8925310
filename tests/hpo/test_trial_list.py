"""`list_acc.json` is written from what was written before, and is the same as all anew."""

from __future__ import annotations

import json
from pathlib import Path

import optuna

from hpo.results.list_acc import TrialList, list_entry


def test_list_grows_to_what_would_be_written_anew(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize")
    path = tmp_path / "list_acc.json"
    trials = TrialList(path)
    for _ in range(3):
        trials.write(study)
        entries = [list_entry(trial) for trial in study.trials]
        assert path.read_text() == json.dumps(entries, indent=2) + "\n"
        trial = study.ask()
        trial.suggest_categorical("text", ["two\nlines", "plain"])
        trial.report(0.5, 1)
        study.tell(trial, 0.5)
