"""A trial has one score, wherever it stands; where Optuna means another trial, both are named."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
from support import Run, list_acc, optimize, standin_settings

FALLING = [0.1, 0.7609] + [0.2] * 58


def test_trial_that_is_not_complete_has_one_score_everywhere(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    curves = {"0": [0.5, 0.6] + [0.4] * 58, "1": FALLING}
    worker = standin_settings(tmp_path, {"curve": curves, "delay": {"1": 0.3}})
    result = run(
        "rml-optimize", *optimize(discs, "--num-trials", 2, "--worker", worker, "--jobs", 1),
        "--num-epochs", 60, "--trial-timeout", 4, "--pruner", "none",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/rml_optimize.db")
    whole, cut_off = study.trials
    assert cut_off.state.name == "PRUNED"
    assert cut_off.intermediate_values[max(cut_off.intermediate_values)] == 0.2
    assert cut_off.value == 0.7609
    entry = list_acc(tmp_path)[1]
    assert (entry["max_acc"], entry["last_acc"]) == (0.7609, 0.2)
    shown = json.loads(run("rml-study", "show", "--trial", 1, "--json").stdout)
    assert (shown["dice_dataset"], shown["last_dice_dataset"]) == (0.7609, 0.2)
    # Optuna's best trial is another one, for it was not cut off; whoever looks sees why.
    assert study.best_trial.number == whole.number
    summary = result.stdout.split("best trial:")[1]
    assert "number 1" in summary
    for text in (summary, run("rml-study", "status").stdout, run("rml-study", "best").stdout):
        assert "0.7609" in text
        assert "complete trials only" in text, text
        assert "trial 0" in text, text
        assert "0.6000" in text, text
