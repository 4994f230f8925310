"""When trials began, what a study took and how fast it goes, also where trials were paused."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import optuna
import pytest
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import select, update
from support import Run, optimize, standin_settings
from test_lease import expire
from test_pausing_claims import claim, new, pause

from hpo.keys import BEGAN
from hpo.report.facts import read_facts
from hpo.store.durations import first_start, span_s
from hpo.store.lease import LeaseManager
from hpo.study.queries import StudyReader

HOUR = dt.timedelta(hours=1)
# The column itself: the model's attribute of that name is converted to local time.
STARTED = models.TrialModel.__table__.c.datetime_start
ABLE = {"capabilities": ["checkpoints.resume", "checkpoints.pause_after", "--serve"]}


def backdate(study: optuna.Study, trial_id: int) -> dt.datetime:
    """Have a trial begin an hour earlier, and return that time (UTC)."""
    storage = study._storage._backend  # type: ignore[attr-defined]
    with storage.engine.begin() as connection:
        is_it = models.TrialModel.trial_id == trial_id
        started: dt.datetime = connection.scalar(select(STARTED).where(is_it)) - HOUR
        connection.execute(update(models.TrialModel).where(is_it).values(datetime_start=started))
    return started


def reader_of(study: optuna.Study) -> StudyReader:
    return StudyReader(study._storage._backend.engine, study._study_id)  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["promoted", "given back", "expired"])
def test_trial_that_is_taken_again_keeps_its_first_start(
    study: optuna.Study, office: LeaseManager, how: str
) -> None:
    lease = new(office, 1)
    began = backdate(study, lease.trial_id)
    if how == "promoted":
        assert pause(office, lease, 0.5)
    elif how == "given back":
        office.give_back(lease)
    else:
        expire(study, lease)
    again = claim(office, 1)
    assert again is not None
    assert (again.trial_id, again.attempt) == (lease.trial_id, 2)
    expire(study, again)  # and once more
    last = claim(office, 1)
    assert last is not None
    assert last.attempt == 3
    assert office.finish(last, TrialState.COMPLETE, 0.5)
    (trial,) = study.get_trials()
    shown = first_start(trial)
    assert shown is not None
    assert shown.astimezone(dt.UTC).replace(tzinfo=None) == began
    assert trial.duration is not None
    assert trial.duration < HOUR  # Optuna's pages: the time between the attempts is not its own
    assert span_s([trial]) >= HOUR.total_seconds()
    assert read_facts(study).started == shown
    span = reader_of(study).span()
    assert span is not None
    assert span[0] == began
    pace = reader_of(study).pace(20)
    assert pace is not None
    assert (pace.num_finished, pace.begin) == (1, began)


def test_trial_that_is_taken_once_and_one_of_an_earlier_release_go_by_optunas_start(
    study: optuna.Study, office: LeaseManager
) -> None:
    first, second = new(office, 2), new(office, 2)
    began = backdate(study, second.trial_id)
    for lease in (first, second):
        assert office.finish(lease, TrialState.COMPLETE, 0.5)
    trials = study.get_trials()
    assert not any(BEGAN in trial.user_attrs for trial in trials)
    assert first_start(trials[0]) == trials[0].datetime_start
    assert span_s(trials) >= HOUR.total_seconds()
    span = reader_of(study).span()
    assert span is not None
    assert span[0] == began
    pace = reader_of(study).pace(1)  # of the last one, while which both have finished
    assert pace is not None
    assert (pace.num_finished, pace.begin) == (2, began)


def test_search_that_pauses_takes_no_less_time_than_its_trials(
    run: Run, discs: Path, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, ABLE | {"epoch_s": 0.05})
    arguments = optimize(
        discs, "--num-epochs", 9, "--num-trials", 5, "--jobs", 1, "--worker", worker
    )
    result = run("rml-optimize", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    entry = json.loads(run("rml-study", "status", "--json").stdout)
    # each trial's clock runs a moment longer, while it is told
    assert entry["total_seconds"] > 0.9 * entry["trial_seconds"] > 0
    seconds_each = 3600 / entry["trials_per_hour"]
    assert seconds_each > 0.9 * entry["trial_seconds"] / 5


def test_times_in_the_database_are_utc_as_optuna_reads_them(
    run: Run, discs: Path, tmp_path: Path, standin: str
) -> None:
    arguments = optimize(discs, "--num-trials", 1, "--jobs", 1, "--worker", standin)
    result = run("rml-optimize", *arguments, TZ="Asia/Tokyo")
    assert result.returncode == 0, result.stdout + result.stderr
    storage = f"sqlite:///{tmp_path / 'rml_optimize.db'}"
    (trial,) = optuna.load_study(study_name=None, storage=storage).trials
    for time in (trial.datetime_start, trial.datetime_complete):
        assert time is not None
        assert abs(dt.datetime.now() - time) < HOUR / 2
