"""Pausing and promoting in real databases: which trial comes next, and what is told at the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import text
from test_lease import HOUR_AGO, expire

from hpo.folders import WorkFolders
from hpo.keys import ATTEMPT, END, PAUSED, SPENT
from hpo.plan import promotion
from hpo.run.pausing import Pausing
from hpo.store.agreement import peek, start_over
from hpo.store.claim import Lease
from hpo.store.database import close_storage, open_storage
from hpo.store.lease import LeaseManager
from hpo.store.study import is_paused, score, seconds_of
from trainer.direction import Direction

SECONDS = {"total": 7.0, "first_epoch": 4.0, "further_epochs": 0.0}


def rule(folder: Path = Path("here"), *, num_epochs: int = 9, is_able: bool = True) -> Pausing:
    folders = WorkFolders(output=folder, study=folder / "runs/s")
    return Pausing(
        folders=folders, num_epochs=num_epochs, is_able=is_able, direction=Direction.MAXIMIZE
    )


def claim(office: LeaseManager, num_trials: int, pausing: Pausing | None = None) -> Lease | None:
    return office.claim(num_trials, promotion=pausing or rule())


def new(office: LeaseManager, num_trials: int = 99) -> Lease:
    lease = claim(office, num_trials)
    assert lease is not None
    assert lease.attempt == 1
    return lease


def pause(
    office: LeaseManager, lease: Lease, *values: float, pausing: Pausing | None = None
) -> bool:
    curve = dict(enumerate(values, start=1))
    end = {"end": "pruned", "dice_dataset": max(values), "seconds": SECONDS}
    record = (pausing or rule()).record(len(values), lease, 3.0, end)  # type: ignore[arg-type]
    return office.pause(lease, curve, {PAUSED: record, SPENT: SECONDS})


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def number_of(study: optuna.Study, lease: Lease | None) -> int | None:
    trials = study.get_trials(deepcopy=False)
    return next((t.number for t in trials if lease and t._trial_id == lease.trial_id), None)


def test_expired_given_back_enqueued_promoted_new_in_this_order(
    study: optuna.Study, office: LeaseManager
) -> None:
    leases = [new(office) for _ in range(5)]
    for lease, value in zip(leases, (0.1, 0.3, 0.2), strict=False):
        assert pause(office, lease, value)
    study.enqueue_trial({"x": 1})
    office.give_back(leases[3])
    expire(study, leases[4])
    order = [number_of(study, claim(office, 99)) for _ in range(5)]
    assert order == [4, 3, 5, 1, 6]


def test_promoted_trial_goes_on_in_its_row_to_the_next_rung(
    study: optuna.Study, office: LeaseManager
) -> None:
    leases = [new(office) for _ in range(3)]
    for lease, value in zip(leases, (0.1, 0.3, 0.2), strict=True):
        assert lease.until == 0
        assert pause(office, lease, value)
    waiting = study.get_trials(deepcopy=False)[1]
    assert is_paused(waiting)
    assert (score(waiting, Direction.MAXIMIZE), seconds_of(waiting)) == (0.3, 7.0)
    lease = claim(office, 99)
    assert lease is not None
    assert (lease.trial_id, lease.attempt) == (leases[1].trial_id, 2)
    assert (lease.until, lease.was_paused, lease.spent) == (3, True, SECONDS)
    promoted = study.get_trials(deepcopy=False)[1]
    assert promoted.state == TrialState.RUNNING
    assert PAUSED not in promoted.user_attrs
    assert promoted.intermediate_values == {1: 0.3}
    # Whoever takes it over knows how far it goes, and that its worker may still run.
    expire(study, lease)
    taken = claim(office, 99)
    assert taken is not None
    assert (taken.attempt, taken.until, taken.was_paused) == (3, 3, False)
    assert pause(office, taken, 0.3, 0.4, 0.4)
    # One at the second rung, so none goes on from there, nor a second one from the first.
    assert new(office) is not None


@pytest.fixture
def as_in_a_long_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three trials stand for many: no more than half is spent."""
    monkeypatch.setattr(promotion, "SPENT_SHORT", promotion.SPENT)


@pytest.mark.usefixtures("as_in_a_long_search")
def test_paused_trials_are_told_as_pruned_when_nothing_runs_or_may_go_on(
    study: optuna.Study, office: LeaseManager
) -> None:
    pausing = rule(num_epochs=3)
    for value in (0.1, 0.3, 0.2):
        lease = claim(office, 3, pausing)
        assert lease is not None
        assert pause(office, lease, value)
    last = claim(office, 3, pausing)
    assert number_of(study, last) == 1
    assert last is not None
    assert last.until == 3
    assert office.report(last, {2: 0.4, 3: 0.5})
    assert claim(office, 3, pausing) is None
    assert states(study) == ["WAITING", "RUNNING", "WAITING"]
    assert office.finish(last, TrialState.COMPLETE, 0.5)
    assert office.num_finished() == 1
    assert claim(office, 3, pausing) is None
    trials = study.get_trials()
    assert states(study) == ["PRUNED", "COMPLETE", "PRUNED"]
    assert [trial.value for trial in trials] == [0.1, 0.5, 0.2]
    assert office.num_finished() == 3
    for trial in (trials[0], trials[2]):
        assert score(trial, Direction.MAXIMIZE) == trial.value
        assert trial.user_attrs[END]["end"] == "pruned"
        assert PAUSED not in trial.user_attrs
        assert seconds_of(trial) == 7.0
        # It has not been trained since it was paused.
        assert trial.duration is not None
        assert trial.duration.total_seconds() == pytest.approx(3.0)


@pytest.mark.usefixtures("as_in_a_long_search")
def test_more_trials_later_are_compared_with_those_that_were_told(
    study: optuna.Study, office: LeaseManager
) -> None:
    pausing = rule(num_epochs=3)
    for value in (0.9, 0.8, 0.7):
        lease = claim(office, 3, pausing)
        assert lease is not None
        assert pause(office, lease, value)
    best = claim(office, 3, pausing)
    assert best is not None
    assert office.report(best, {2: 0.9, 3: 0.9})
    assert office.finish(best, TrialState.COMPLETE, 0.9)
    assert claim(office, 3, pausing) is None
    for value in (0.1, 0.85, 0.3):
        lease = claim(office, 6, pausing)
        assert lease is not None
        assert lease.attempt == 1
        assert pause(office, lease, value)
    assert number_of(study, claim(office, 6, pausing)) == 4  # one of the two best of six
    assert states(study)[:3] == ["COMPLETE", "PRUNED", "PRUNED"]


def test_trial_whose_state_is_elsewhere_is_left_to_its_host_until_all_are_silent(
    study: optuna.Study, office: LeaseManager, tmp_path: Path
) -> None:
    here, there = rule(tmp_path), rule(Path("elsewhere"))
    for value in (0.1, 0.3, 0.2):
        assert pause(office, new(office, 3), value, pausing=there)
    assert claim(office, 3, here) is None
    assert states(study) == ["WAITING"] * 3
    unable = rule(Path("elsewhere"), is_able=False)
    assert claim(office, 3, unable) is None
    storage = study._storage._backend  # type: ignore[attr-defined]
    with storage.engine.begin() as connection:
        past = HOUR_AGO[storage.engine.name]
        connection.execute(text(f"UPDATE trial_heartbeats SET heartbeat = {past}"))
    lease = claim(office, 3, here)
    assert number_of(study, lease) == 1  # trained anew rather than lost


def test_trial_on_a_shared_file_system_goes_on_here(
    study: optuna.Study, office: LeaseManager, tmp_path: Path
) -> None:
    here, there = rule(tmp_path), rule(Path("elsewhere"))
    for value in (0.1, 0.3, 0.2):
        assert pause(office, new(office, 3), value, pausing=there)
    state = here.folders.attempt(1, 1) / "temp_model/resume.pt"
    state.parent.mkdir(parents=True)
    state.touch()
    assert number_of(study, claim(office, 3, here)) == 1


def test_study_with_paused_trials_is_not_started_over(
    study: optuna.Study, office: LeaseManager, url: str
) -> None:
    storage = study._storage._backend  # type: ignore[attr-defined]
    lease = new(office)
    office.give_back(lease)
    known = peek(url, "s")
    assert known is not None
    assert known.may_start_over
    again = claim(office, 99)
    assert again is not None
    assert pause(office, again, 0.5)
    known = peek(url, "s")
    assert known is not None
    assert not known.may_start_over
    assert not start_over(storage, study._study_id, {"search": "another"})
    assert states(study) == ["WAITING"]


def test_paused_trial_that_a_script_takes_is_the_script_s(
    study: optuna.Study, office: LeaseManager
) -> None:
    lease = new(office, 1)
    assert pause(office, lease, 0.5)
    taken = study.ask()
    assert taken._trial_id == lease.trial_id
    other = claim(office, 1)
    assert number_of(study, other) == 1
    assert other is not None
    assert office.finish(other, TrialState.COMPLETE, 0.1)
    assert claim(office, 1) is None
    study.tell(taken, 0.5)
    assert states(study) == ["COMPLETE", "COMPLETE"]


def test_late_pause_is_refused_and_a_repeated_one_is_not(
    study: optuna.Study, office: LeaseManager
) -> None:
    first = new(office)
    expire(study, first)
    second = claim(office, 99)
    assert second is not None
    assert not pause(office, first, 0.5)
    assert states(study) == ["RUNNING"]
    assert pause(office, second, 0.5)
    assert pause(office, second, 0.5)  # the connection broke after the commit
    assert not pause(office, first, 0.5)


def test_search_without_promotion_takes_no_paused_trial(
    study: optuna.Study, office: LeaseManager
) -> None:
    assert pause(office, new(office, 1), 0.5)
    assert office.claim(1) is None
    assert states(study) == ["WAITING"]


WORKER = """
import sys, time, random
from pathlib import Path
import optuna
from optuna.storages import get_storage
from optuna.trial import TrialState
from hpo.keys import PAUSED
from hpo.store.lease import LeaseManager
from hpo.store.database import close_storage, open_storage
from test_pausing_claims import rule
rdb = open_storage(sys.argv[1])
study = optuna.create_study(study_name="s", storage=get_storage(rdb), direction="maximize",
                            load_if_exists=True)
office, pausing = LeaseManager(rdb, study._study_id, lease_s=60), rule(num_epochs=9)
while office.num_finished() < 27:
    lease = office.claim(27, promotion=pausing)
    if lease is None:
        time.sleep(0.05)
        continue
    draw = random.Random(lease.trial_id)
    until = lease.until or 1
    curve = {epoch: draw.random() for epoch in range(1, until + 1)}
    assert office.report(lease, curve)
    if until < 9:
        assert office.pause(lease, curve, {PAUSED: pausing.record(until, lease, 0.0, {})})
    else:
        assert office.finish(lease, TrialState.COMPLETE, max(curve.values()))
office.close()
close_storage(rdb)
"""


def test_many_processes_end_with_exactly_n_and_the_best_of_them_whole(url: str) -> None:
    folder = Path(__file__).parent
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(folder.parent)!r}]\n{WORKER}"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, errors
    storage = open_storage(url)
    trials = optuna.load_study(study_name="s", storage=storage).get_trials()
    close_storage(storage)
    assert [trial.number for trial in trials] == list(range(27))
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert max(trials, key=lambda trial: trial.value or 0) in whole
    for trial in trials:
        epochs = (1, 3, 9)[trial.user_attrs[ATTEMPT] - 1]
        assert (trial in whole) == (epochs == 9)
        assert sorted(trial.intermediate_values) == list(range(1, epochs + 1))
        assert trial.value == max(trial.intermediate_values.values())
    assert sum(trial.user_attrs[ATTEMPT] > 1 for trial in trials) >= 9
