"""An empty database of each kind that drivers may share, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from databases import empty_database
from optuna.storages import RDBStorage, get_storage

from hpo.store.database import close_storage, open_storage
from hpo.store.lease import LeaseManager


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mysql", marks=pytest.mark.mysql),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'studies.db'}"
    else:
        with empty_database(request.param) as url:
            yield url


@pytest.fixture
def study(url: str) -> Iterator[optuna.Study]:
    """An empty study in a database of each kind."""
    storage = open_storage(url)
    yield optuna.create_study(study_name="s", storage=get_storage(storage), direction="maximize")
    close_storage(storage)


@pytest.fixture
def office(study: optuna.Study) -> Iterator[LeaseManager]:
    """What hands out the trials of that study."""
    storage = study._storage._backend  # type: ignore[attr-defined]
    assert isinstance(storage, RDBStorage)
    lease_manager = LeaseManager(storage, study._study_id, lease_s=30)
    yield lease_manager
    lease_manager.close()


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """The URL of an empty database on PostgreSQL."""
    with empty_database("postgres") as url:
        yield url
