"""An empty database of each kind that drivers may share, on real servers."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from support import require

SERVERS = {"postgres": "RML_TEST_POSTGRES_URL", "mysql": "RML_TEST_MYSQL_URL"}
DROP = {
    "postgres": "DROP DATABASE {} WITH (FORCE)",
    "mysql": "DROP DATABASE {}",
}


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
        yield from empty_database(request.param)


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """The URL of an empty database on PostgreSQL."""
    yield from empty_database("postgres")


def empty_database(kind: str) -> Iterator[str]:
    """Make a database, and drop it afterwards."""
    server = os.environ.get(SERVERS[kind])
    if server is None:
        require(kind, f"{SERVERS[kind]} names no server")
        return
    name = f"t_{uuid.uuid4().hex[:12]}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(DROP[kind].format(name)))
    admin.dispose()
