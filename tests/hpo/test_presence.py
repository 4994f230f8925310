"""The sign of life of a driver that has no trial, in each kind of database."""

from __future__ import annotations

import json
from collections.abc import Iterator

import optuna
import pytest
from optuna.storages._rdb import models
from sqlalchemy import update

from hpo.keys import DRIVER
from hpo.store.lease import LeaseManager
from hpo.study.queries import StudyReader

_Attribute = models.StudySystemAttributeModel


@pytest.fixture
def other(study: optuna.Study) -> Iterator[LeaseManager]:
    backend = study._storage._backend  # type: ignore[attr-defined]
    manager = LeaseManager(backend, study._study_id, lease_s=30, owner="other_host/b")
    yield manager
    manager.close()


def silence(study: optuna.Study, owner: str, seconds: float) -> None:
    engine = study._storage._backend.engine  # type: ignore[attr-defined]
    attributes = study._storage.get_study_system_attrs(study._study_id)
    record = attributes[key := DRIVER.format(owner)]
    record["renewed"] -= seconds
    with engine.begin() as connection:
        is_it = _Attribute.key == key
        connection.execute(update(_Attribute).where(is_it).values(value_json=json.dumps(record)))


def drivers(study: optuna.Study) -> list[str]:
    attributes = study._storage.get_study_system_attrs(study._study_id)
    return sorted(key for key in attributes if key.startswith(DRIVER.format("")))


def test_driver_is_there_until_it_leaves_or_falls_silent(
    study: optuna.Study, office: LeaseManager, other: LeaseManager
) -> None:
    reader = StudyReader(study._storage._backend.engine, study._study_id)  # type: ignore[attr-defined]
    assert not reader.has_driver()
    office.presence.enter()
    office.presence.renew()
    other.presence.enter()
    assert len(drivers(study)) == 2
    assert reader.has_driver()
    office.presence.leave()
    assert reader.has_driver()
    silence(study, "other_host/b", 91)
    assert not reader.has_driver()
    other.presence.renew()
    assert reader.has_driver()
    other.presence.leave()
    assert not reader.has_driver()
    assert drivers(study) == []


def test_next_driver_forgets_one_that_died_long_ago(
    study: optuna.Study, office: LeaseManager, other: LeaseManager
) -> None:
    other.presence.enter()
    silence(study, "other_host/b", 86400)
    office.presence.enter()
    assert drivers(study) == [DRIVER.format("")]  # the fixture's owner has no name
    other.presence.renew()  # it was only frozen
    assert len(drivers(study)) == 2
