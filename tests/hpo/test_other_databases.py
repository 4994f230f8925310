"""A database of another program or another Optuna is left as it is, and said to be one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from alembic.script import ScriptDirectory
from databases import SERVERS
from optuna.storages import RDBStorage
from optuna.storages._rdb import models, storage
from sqlalchemy import MetaData, Table, create_engine, inspect, make_url, select, text
from support import Run, one_error, optimize

from hpo.store import schema

OTHERS = {
    "shop": ["CREATE TABLE customers (id INTEGER PRIMARY KEY, name VARCHAR(40))",
             "INSERT INTO customers VALUES (1, 'somebody')"],
    # of names that Optuna has, too
    "clinic": ["CREATE TABLE studies (id INTEGER PRIMARY KEY, title VARCHAR(40))",
               "CREATE TABLE trials (id INTEGER PRIMARY KEY, phase INTEGER)"],
    "alembic": ["CREATE TABLE alembic_version (version_num VARCHAR(32))",
                "INSERT INTO alembic_version VALUES ('1975ea83b712')",
                "CREATE TABLE experiments (id INTEGER PRIMARY KEY)"],
    "empty alembic": ["CREATE TABLE alembic_version (version_num VARCHAR(32))",
                      "INSERT INTO alembic_version VALUES ('1975ea83b712')"],
}  # fmt: skip
NAMES = {"shop": "customers", "clinic": "studies, trials", "alembic": "experiments"}


def execute(url: str, statements: list[str]) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def content(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows of all tables."""
    engine = create_engine(url)
    with engine.connect() as connection:
        tables = [
            Table(name, MetaData(), autoload_with=connection)
            for name in inspect(connection).get_table_names()
        ]
        rows = {
            table.name: [tuple(row) for row in connection.execute(select(table))]
            for table in tables
        }
    engine.dispose()
    return rows


def errors_of(run: Run, discs: Path, url: str, *, all_commands: bool = True) -> list[str]:
    """Return what each command says of a database that it refuses."""
    search = optimize(discs, "--num-trials", 1)
    lines = [
        one_error(run("rml-optimize", *search, RML_STORAGE=url), code=2),
        one_error(run("rml-study", "status", RML_STORAGE=url), code=2),
    ]
    if not all_commands:
        return lines
    lines.append(one_error(run("rml-optimize", *search, "--dry-run", RML_STORAGE=url), code=2))
    for command in ("list", "best"):
        lines.append(one_error(run("rml-study", command, RML_STORAGE=url), code=2))
    doctor = run("rml-study", "doctor", RML_STORAGE=url)
    assert doctor.returncode == 1, doctor.stdout
    assert "Traceback" not in doctor.stderr
    (line,) = [line for line in doctor.stdout.splitlines() if " database " in line]
    assert line.startswith("FAIL")
    return [*lines, line]


@pytest.mark.parametrize("program", list(OTHERS))
def test_database_of_another_program_is_left_alone(
    discs: Path, url: str, run: Run, program: str
) -> None:
    execute(url, OTHERS[program])
    before = content(url)
    names = NAMES.get(program, "alembic_version")
    for line in errors_of(run, discs, url, all_commands=program == "shop"):
        assert f"holds tables of another program ({names}), none of Optuna's" in line
        assert "name a database that is empty" in line
        assert "its server runs" not in line
    assert content(url) == before


@pytest.mark.parametrize(
    ("revision", "schema_version", "library", "remedy"),
    [
        ("v2.6.0.a", 12, "2.10.1", "older than this program's Optuna {} (tables of v3.2.0.a); "
                                   "copy it and bring it up to date with optuna storage upgrade"),
        (None, 9, "0.8.0", "older than this program's Optuna {}"),
        ("v9.0.0.a", 12, "9.1.0", "newer than this program's Optuna {}"),
        ("v3.2.0.a", 13, "9.1.0", "newer than this program's Optuna {}"),
    ],
)  # fmt: skip
def test_database_of_another_optuna_names_both_versions(
    discs: Path, url: str, run: Run, revision: str | None, schema_version: int, library: str,
    remedy: str,
) -> None:  # fmt: skip
    made = RDBStorage(url)
    optuna.create_study(storage=made, study_name="old")
    made.remove_session()
    made.engine.dispose()
    execute(url, [
        f"UPDATE version_info SET library_version = '{library}'",
        f"UPDATE version_info SET schema_version = {schema_version}",
        f"UPDATE alembic_version SET version_num = '{revision}'"
        if revision else "DROP TABLE alembic_version",
        "DROP TABLE trial_heartbeats",  # Optuna would make it
    ])  # fmt: skip
    before = content(url)
    for line in errors_of(run, discs, url, all_commands=schema_version == 9):
        assert f"was made by Optuna {library} (tables of {revision or schema_version})" in line
        assert remedy.format(optuna.__version__) in line
    assert content(url) == before


def test_database_that_optuna_shares_with_others_is_taken(discs: Path, url: str, run: Run) -> None:
    made = RDBStorage(url)
    made.remove_session()
    made.engine.dispose()
    execute(url, OTHERS["shop"])
    listed = run("rml-study", "list", RML_STORAGE=url)
    assert (listed.returncode, listed.stdout) == (0, "no studies\n"), listed.stderr


def test_tables_that_another_driver_is_making_are_optuna_s(url: str) -> None:
    """Each is there a moment before the next."""
    engine = create_engine(url)
    for table in models.BaseModel.metadata.sorted_tables:
        table.create(engine)
        schema.check_schema(engine)
    execute(url, ["INSERT INTO version_info VALUES (1, 12, 'x')"])
    schema.check_schema(engine)
    engine.dispose()


def test_optuna_s_tables_are_known() -> None:
    """A new Optuna, with other tables, fails here."""
    directory = Path(storage.__file__).with_name("alembic")
    revisions = [each.revision for each in ScriptDirectory(str(directory)).walk_revisions()]
    assert tuple(reversed(revisions)) == schema.REVISIONS
    assert models.SCHEMA_VERSION == schema.SCHEMA_VERSION
    tables = models.BaseModel.metadata.tables
    assert set(tables) == set(schema.TABLES)
    for name, columns in schema.TABLES.items():
        assert columns <= {column.name for column in tables[name].columns}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("a letter"), "file is not a database of SQLite's"),
        (lambda path: path.mkdir(), "is a folder; name a file in it"),
    ],
)
def test_file_that_is_no_database(
    discs: Path, tmp_path: Path, run: Run, make: Callable[[Path], object], words: str
) -> None:
    make(tmp_path / "study.db")
    for line in errors_of(run, discs, f"sqlite:///{tmp_path / 'study.db'}"):
        assert words in line
    if (tmp_path / "study.db").is_file():
        assert (tmp_path / "study.db").read_text() == "a letter"


@pytest.mark.postgres
@pytest.mark.mysql
@pytest.mark.parametrize(
    ("kind", "driver"), [("postgres", "mysql+pymysql"), ("mysql", "postgresql+psycopg")]
)
def test_server_of_another_kind_is_said_to_be_one(
    discs: Path, run: Run, kind: str, driver: str
) -> None:
    url = make_url(os.environ[SERVERS[kind]]).set(drivername=driver)
    shown = url.render_as_string(hide_password=False)
    result = run("rml-optimize", *optimize(discs, "--num-trials", 1), RML_STORAGE=shown)
    line = one_error(result, code=2)
    server = "MySQL or MariaDB" if kind == "postgres" else "PostgreSQL"
    assert f"what answers there is no {server} server" in line
    assert "tries again" not in result.stdout
