"""What a database refuses for a while is waited for, by drivers that run and that start."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import SERVERS, empty_database, trials_of
from proxy import proxied
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from support import BIN, Run, clean_environment, optimize, standin_settings, wait_for, workers_of

from hpo.store.connections import LimitedPool

REFUSE = {
    "read-only": "ALTER DATABASE {database} SET default_transaction_read_only = on",
    "revoked": "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {user}",
}
ALLOW = {
    "read-only": "ALTER DATABASE {database} SET default_transaction_read_only = off",
    "revoked": "GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}",
}


class Database:
    """An empty database of a user who may do nothing else, and an administrator of it."""

    def __init__(self, url: str, user: str) -> None:
        self.url = make_url(url).set(username=user).render_as_string(hide_password=False)
        self.names = {"database": make_url(url).database, "user": user}
        self._engine = create_engine(url, isolation_level="AUTOCOMMIT")
        self.admin: Connection = self._engine.connect()

    def tell(self, statement: str) -> None:
        """Have the administrator do something."""
        self.admin.execute(text(statement.format(**self.names)))

    def end_sessions(self) -> None:
        """End all connections of the user."""
        self.tell(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'"
        )

    def close(self) -> None:
        self.admin.close()
        self._engine.dispose()


@pytest.fixture
def database() -> Iterator[Database]:
    """An empty database on PostgreSQL."""
    user = f"u_{uuid.uuid4().hex[:8]}"
    with empty_database("postgres") as url:
        database = Database(url, user)
        database.tell(f"CREATE ROLE {{user}} LOGIN PASSWORD '{make_url(url).password}'")
        database.tell("ALTER DATABASE {database} OWNER TO {user}")
        try:
            yield database
        finally:
            database.close()
    server = create_engine(os.environ[SERVERS["postgres"]], isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"DROP USER {user}"))
    server.dispose()


def start(folder: Path, url: str, arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [BIN / "rml-optimize", *arguments], cwd=folder, text=True, stdout=subprocess.PIPE,
        env=clean_environment() | {"RML_STORAGE": url}, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.postgres
@pytest.mark.parametrize("trouble", list(REFUSE))
def test_database_that_refuses_for_a_while_is_waited_for(
    discs: Path, tmp_path: Path, database: Database, trouble: str
) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.2})
    arguments = optimize(discs, "--num-trials", 4, "--worker", worker, "--jobs", 2)
    process = start(tmp_path, database.url, arguments)
    wait_for(lambda: workers_of(tmp_path), 60)
    database.tell(REFUSE[trouble])
    database.end_sessions()
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if "does not answer" in line or "refuses" in line:
            break
    threading.Event().wait(2)
    database.tell(ALLOW[trouble])
    database.end_sessions()
    seen += process.communicate(timeout=120)[0]
    assert process.returncode == 0, seen
    assert [trial.state.name for trial in trials_of(database.url)] == ["COMPLETE"] * 4


@pytest.mark.postgres
def test_more_drivers_than_the_database_has_connections_for_all_take_part(
    discs: Path, tmp_path: Path, database: Database
) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.1})
    arguments = optimize(discs, "--num-trials", 6, "--worker", worker, "--jobs", 1)
    database.tell("ALTER ROLE {user} CONNECTION LIMIT 2")
    processes = [start(tmp_path, database.url, arguments) for _ in range(4)]
    outputs = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    database.tell("ALTER ROLE {user} CONNECTION LIMIT -1")
    assert [trial.state.name for trial in trials_of(database.url)] == ["COMPLETE"] * 6


@pytest.mark.postgres
def test_driver_of_many_slots_keeps_few_connections_and_closes_idle_ones(
    discs: Path, tmp_path: Path, postgres_url: str
) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.2, "delay": {"15": 3}})
    arguments = optimize(discs, "--num-trials", 16, "--worker", worker, "--jobs", 8)
    admin = create_engine(os.environ[SERVERS["postgres"]], isolation_level="AUTOCOMMIT")
    query = text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name")
    name = make_url(postgres_url).database
    counts: Counter[int] = Counter()
    process = start(tmp_path, postgres_url, arguments)
    with admin.connect() as connection:
        while process.poll() is None:
            found = connection.scalar(query, {"name": name}) or 0
            if workers_of(tmp_path):
                counts[found] += 1
    admin.dispose()
    assert process.wait() == 0, process.communicate()[0]
    process.communicate()
    # on a busy machine the server counts a connection that is closed for a moment longer
    more = sum(times for found, times in counts.items() if found > 4)
    assert more <= 0.02 * counts.total(), counts
    assert counts[0] > 0, counts


@pytest.mark.postgres
def test_database_of_another_isolation_level_ends_no_driver_that_starts(
    discs: Path, tmp_path: Path, postgres_url: str
) -> None:
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(
            text(
                f"ALTER DATABASE {make_url(postgres_url).database} "
                "SET default_transaction_isolation = 'repeatable read'"
            )
        )
    admin.dispose()
    arguments = optimize(
        discs, "--num-trials", 8, "--worker", standin_settings(tmp_path, {}), "--jobs", 1
    )
    processes = [start(tmp_path, postgres_url, arguments) for _ in range(4)]
    outputs = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert not any("does not answer" in output for output in outputs), outputs
    assert [trial.state.name for trial in trials_of(postgres_url)] == ["COMPLETE"] * 8


@pytest.mark.postgres
def test_driver_that_starts_before_its_database_waits_for_it(
    discs: Path, tmp_path: Path, postgres_url: str
) -> None:
    with proxied(postgres_url) as (through, proxy):
        proxy.is_away = True
        process = start(
            tmp_path, through, optimize(discs, "--num-trials", 1, "--worker",
                                        standin_settings(tmp_path, {})),
        )  # fmt: skip
        assert process.stdout is not None
        seen = ""
        for line in process.stdout:
            seen += line
            if "tries again for 60 s" in line:
                break
        proxy.is_away = False
        seen += process.communicate(timeout=120)[0]
    assert process.returncode == 0, seen
    assert "cannot be reached" in seen


@pytest.mark.postgres
def test_wrong_password_is_not_waited_for(discs: Path, run: Run, postgres_url: str) -> None:
    url = make_url(postgres_url).set(password="wrong").render_as_string(hide_password=False)
    result = run("rml-optimize", *optimize(discs, "--num-trials", 1), RML_STORAGE=url)
    assert result.returncode == 2
    assert "password authentication failed" in result.stderr
    assert "tries again" not in result.stdout + result.stderr


@pytest.mark.postgres
def test_idle_slots_of_a_driver_ask_together_and_seldom(
    discs: Path, tmp_path: Path, postgres_url: str
) -> None:
    worker = standin_settings(tmp_path, {"epochs": 30, "epoch_s": 0.3})
    arguments = optimize(
        discs, "--num-trials", 1, "--worker", worker, "--jobs", 8, "--num-epochs", 30,
        "--pruner", "none",
    )  # fmt: skip
    process = start(tmp_path, postgres_url, arguments)
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    query = text("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
    with admin.connect() as connection:
        wait_for(lambda: workers_of(tmp_path), 60)
        threading.Event().wait(3)  # until they ask seldom
        before = connection.scalar(query)
        threading.Event().wait(4)
        num_transactions = connection.scalar(query) - before
    admin.dispose()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    # 3 reports a second, and less than 3 questions of a few transactions each; not 8 × 5 a second.
    assert num_transactions < 80, num_transactions
    assert re.search("best trial: number 0", output)


def test_pool_that_closes_idle_connections_still_counts_those_in_use() -> None:
    """One that is taken while the idle ones are closed must not be forgotten."""
    opened: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        opened.append(sqlite3.connect(":memory:", check_same_thread=False))
        return opened[-1]

    pool = LimitedPool(connect, pool_size=2, max_overflow=0, timeout=0.01)
    in_use, idle = pool.connect(), pool.connect()
    idle.close()
    pool.close_idle()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[1].execute("SELECT 1")
    another = pool.connect()
    with pytest.raises(PoolTimeout):
        pool.connect()
    in_use.close()
    another.close()
    pool.close_idle()
    assert (len(opened), pool.checkedin(), pool.checkedout()) == (3, 0, 0)
