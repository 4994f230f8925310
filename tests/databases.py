"""Empty databases for tests, of each kind that is there."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy import create_engine, make_url, text
from support import require

SERVERS = {"postgres": "RML_TEST_POSTGRES_URL", "mysql": "RML_TEST_MYSQL_URL"}
DROP = {
    "postgres": "DROP DATABASE {} WITH (FORCE)",
    "mysql": "DROP DATABASE {}",
}


@contextlib.contextmanager
def empty_database(kind: str) -> Iterator[str]:
    """Yield the URL of an empty database on the tests' server, dropped afterwards."""
    server = os.environ.get(SERVERS[kind])
    if server is None:
        require(kind, f"{SERVERS[kind]} names no server")
    assert server is not None
    name = f"t_{uuid.uuid4().hex[:12]}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(text(DROP[kind].format(name)))
        admin.dispose()


def trials_of(url: str) -> list[FrozenTrial]:
    """Return the trials of a database's only study, as Optuna itself reads them."""
    storage = RDBStorage(url)
    try:
        return optuna.load_study(study_name=None, storage=storage).trials
    finally:
        storage.remove_session()
        storage.engine.dispose()
