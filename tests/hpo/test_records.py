"""What is written to a trial's attributes stays readable, also from earlier releases."""

from __future__ import annotations

import json
import socket
from typing import Any

import optuna
import pytest
from hpo.study.trials import describe_trial

from hpo.records import end_of, recorded_model, run_of
from hpo.results.list_acc import list_entry
from hpo.results.models import model_of
from hpo.results.provenance import describe_end
from hpo.run.search import count_failed


def trial_with(**attributes: Any) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(value=0.5, user_attrs=attributes)


def test_end_is_written_under_the_names_that_studies_have() -> None:
    written = describe_end(
        end="failed", score=0.5, epoch=2, message="m" * 600, log_tail="", attempt=3,
        seconds={"total": 1.5},
    )  # fmt: skip
    assert json.dumps(written) == json.dumps(
        {
            "end": "failed", "dice_dataset": 0.5, "epoch": 2, "host": socket.gethostname(),
            "attempt": 3, "seconds": {"total": 1.5}, "message": "m" * 500,
        }
    )  # fmt: skip
    assert end_of({"rml:end": json.loads(json.dumps(written))}) == written


def test_records_of_earlier_releases_are_read() -> None:
    # before an end had its score, and a model its attempt and its checkpoint
    trial = trial_with(
        attempt=2, **{
            "rml:end": {"end": "complete", "host": "node7"},
            "rml:provenance": {"host": "node7", "config": {"loss": {"function": "BCE"}}},
            "rml:model": {"host": "node7", "folder": "/nodes/7/best_model", "artifact": None},
        },
    )  # fmt: skip
    shown = describe_trial(trial)
    assert (shown["end"], shown["host"], shown["durations"]) == ("complete", "node7", None)
    assert list_entry(trial)["loss"] == "BCE"
    assert model_of(trial)["folder"] == "/nodes/7/best_model"


def test_model_of_an_attempt_that_died_is_none_of_the_trial() -> None:
    trial = trial_with(attempt=2, **{"rml:model": {"attempt": 1, "older": ["a.tar"]}})
    assert model_of(trial) == {}
    assert recorded_model(trial.user_attrs)["older"] == ["a.tar"]


@pytest.mark.parametrize("value", [None, "text", 3, ["list"]])
def test_what_another_program_wrote_under_our_names_is_no_record(value: object) -> None:
    attributes = {"rml:end": value, "rml:provenance": value, "rml:model": value}
    assert end_of(attributes) == run_of(attributes) == recorded_model(attributes) == {}
    study = optuna.create_study()
    failed = optuna.trial.create_trial(
        state=optuna.trial.TrialState.FAIL, user_attrs={**attributes}
    )
    study.add_trial(failed)
    assert count_failed(study) == 1
    assert describe_trial(study.trials[0])["end"] is None
