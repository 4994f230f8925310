"""`list_acc.json` is written from what was written before, and is the same as all anew."""

from __future__ import annotations

import json
from pathlib import Path

import optuna

from hpo.results.list_acc import TrialList, list_entry


def test_list_of_another_study_is_kept_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "list_acc.json"
    written: dict[str, str] = {}
    for name in ("first", "second", "first"):
        study = optuna.create_study(study_name=name, direction="maximize")
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, 0.5)
        TrialList(path).write(study)
        TrialList(path).write(study)  # the same study again moves nothing
        written[name] = path.read_text()
        assert f'"study": "{name}"' in written[name]
    kept = sorted(each.name for each in tmp_path.iterdir())
    assert kept == ["list_acc-first.json", "list_acc-second.json", "list_acc.json"]
    assert (tmp_path / "list_acc-second.json").read_text() == written["second"]


def test_list_of_an_earlier_release_is_known_by_its_trials(tmp_path: Path) -> None:
    path = tmp_path / "list_acc.json"
    for name, is_same in (("same", True), ("other", False)):
        study = optuna.create_study(study_name=name, direction="maximize")
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, 0.5)
        entry = list_entry(study.trials[0])
        path.write_text(json.dumps([entry if is_same else entry | {"params": {"x": 7}}]))
        TrialList(path).write(study)
        assert (tmp_path / "list_acc-before.json").exists() is not is_same


def test_list_grows_to_what_would_be_written_anew(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize")
    path = tmp_path / "list_acc.json"
    trials = TrialList(path)
    for _ in range(3):
        trials.write(study)
        entries = [{**list_entry(trial), "study": study.study_name} for trial in study.trials]
        assert path.read_text() == json.dumps(entries, indent=2) + "\n"
        trial = study.ask()
        trial.suggest_categorical("text", ["two\nlines", "plain"])
        trial.report(0.5, 1)
        study.tell(trial, 0.5)
