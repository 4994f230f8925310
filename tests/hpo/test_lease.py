"""Reservations on real databases: exactly N trials, take-over, fencing."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage, get_storage
from optuna.trial import TrialState
from sqlalchemy import text
from support import require

from hpo.lease import Lease, LeaseOffice
from hpo.storage import close_storage, open_storage

POSTGRES_URL = "RML_TEST_POSTGRES_URL"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'studies.db'}"
        return
    server = os.environ.get(POSTGRES_URL)
    if server is None:
        require("postgres", f"{POSTGRES_URL} names no server")
        return
    from sqlalchemy import create_engine, make_url

    name = f"t_{uuid.uuid4().hex[:12]}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def study(url: str) -> Iterator[optuna.Study]:
    storage = open_storage(url)
    yield optuna.create_study(study_name="s", storage=get_storage(storage), direction="maximize")
    close_storage(storage)


def office_of(study: optuna.Study, lease_s: float = 30) -> LeaseOffice:
    storage = study._storage._backend  # type: ignore[attr-defined]
    assert isinstance(storage, RDBStorage)
    return LeaseOffice(storage, study._study_id, lease_s=lease_s)


def expire(study: optuna.Study, lease: Lease) -> None:
    """Make a lease look as if its owner had been silent for an hour."""
    storage = study._storage._backend  # type: ignore[attr-defined]
    past = "datetime('now', '-1 hour')" if storage.engine.name == "sqlite" else (
        "now() - interval '1 hour'"
    )  # fmt: skip
    with storage.engine.begin() as connection:
        connection.execute(
            text(f"UPDATE trial_heartbeats SET heartbeat = {past} WHERE trial_id = :id"),
            {"id": lease.trial_id},
        )


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials(deepcopy=False)]


def test_claims_end_at_n_and_failures_do_not_count(study: optuna.Study) -> None:
    office = office_of(study)
    leases = [office.claim(3) for _ in range(4)]
    assert [lease is None for lease in leases] == [False, False, False, True]
    first = leases[0]
    assert first is not None
    study._storage.get_all_trials(study._study_id)
    study.tell(optuna.Trial(study, first.trial_id), state=TrialState.FAIL)
    assert office.claim(3) is not None
    assert office.claim(3) is None
    office.close()


def test_expired_trial_is_taken_over_in_place_with_its_parameters(study: optuna.Study) -> None:
    office = office_of(study)
    first = office.claim(2)
    assert first is not None
    study._storage.get_all_trials(study._study_id)
    trial = optuna.Trial(study, first.trial_id)
    value = trial.suggest_float("x", 0, 1)
    trial.report(0.5, 1)
    expire(study, first)
    second = office.claim(2)
    assert second is not None
    assert (second.trial_id, second.attempt) == (first.trial_id, 2)
    assert not office.renew(first)
    assert office.renew(second)
    taken = optuna.Trial(study, second.trial_id)
    assert taken.suggest_float("x", 0, 1) == value
    assert study.get_trials()[0].intermediate_values == {}
    office.close()


def test_living_trial_is_not_taken_over(study: optuna.Study) -> None:
    office = office_of(study)
    assert office.claim(1) is not None
    assert office.claim(1) is None
    office.close()


def test_given_back_trial_is_taken_by_the_next(study: optuna.Study) -> None:
    office = office_of(study)
    first = office.claim(1)
    assert first is not None
    office.give_back(first)
    assert states(study) == [TrialState.WAITING]
    second = office.claim(1)
    assert second is not None
    assert (second.trial_id, second.attempt) == (first.trial_id, 2)
    office.close()


def test_late_give_back_does_not_disturb_the_new_owner(study: optuna.Study) -> None:
    office = office_of(study)
    first = office.claim(1)
    assert first is not None
    expire(study, first)
    second = office.claim(1)
    office.give_back(first)
    assert second is not None
    assert states(study) == [TrialState.RUNNING]
    assert office.renew(second)
    office.close()


WORKER = """
import sys, optuna
from optuna.storages import get_storage
from hpo.lease import LeaseOffice
from hpo.storage import close_storage, open_storage
rdb = open_storage(sys.argv[1])
study = optuna.create_study(study_name="s", storage=get_storage(rdb), direction="maximize",
                            load_if_exists=True)
office = LeaseOffice(rdb, study._study_id, lease_s=30)
while (lease := office.claim(25)) is not None:
    study._storage.get_all_trials(study._study_id, deepcopy=False)
    study.tell(optuna.Trial(study, lease.trial_id), 1.0)
"""


def test_many_processes_make_exactly_n_trials(url: str) -> None:
    # On an empty database: creating its tables at the same time must not kill anyone either.
    processes = [
        subprocess.Popen([sys.executable, "-c", WORKER, url], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    storage = open_storage(url)
    study = optuna.load_study(study_name="s", storage=storage)
    assert states(study) == [TrialState.COMPLETE] * 25
    close_storage(storage)
