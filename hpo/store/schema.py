"""Tells Optuna's database from one of another program, and from one of another Optuna.

Optuna makes its tables in whatever database it is given before it looks at what is there, so this
is asked first. It does not import Optuna, whose loading costs more than the look.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from sqlalchemy import Connection, Engine, Inspector, column, inspect, select, table

from hpo.errors import StorageError
from hpo.store.databaseurl import show_url

# Optuna's migrations; a database of the last one is what this Optuna makes.
REVISIONS = (
    "v0.9.0.a", "v1.2.0.a", "v1.3.0.a", "v2.4.0.a", "v2.6.0.a", "v3.0.0.a", "v3.0.0.b",
    "v3.0.0.c", "v3.0.0.d", "v3.2.0.a",
)  # fmt: skip
SCHEMA_VERSION = 12  # of all that have revisions
# Optuna's tables, and columns that tell them from others of such names.
TABLES = {
    "studies": {"study_id", "study_name"},
    "version_info": {"schema_version", "library_version"},
    "study_directions": {"study_id", "direction"},
    "study_system_attributes": {"study_id", "value_json"},
    "study_user_attributes": {"study_id", "value_json"},
    "trials": {"trial_id", "study_id", "state"},
    "trial_heartbeats": {"trial_id", "heartbeat"},
    "trial_intermediate_values": {"trial_id", "step"},
    "trial_params": {"trial_id", "param_name"},
    "trial_system_attributes": {"trial_id", "value_json"},
    "trial_user_attributes": {"trial_id", "value_json"},
    "trial_values": {"trial_id", "value"},
}
_REVISION_TABLE = "alembic_version"  # other programs have one, too
MAX_NAMES = 4


class OtherDatabaseError(StorageError):
    """The database is another program's, or of another version of Optuna."""


def check_schema(engine: Engine) -> None:
    """Check that a database is empty, or this Optuna's; nothing is changed.

    Raises:
        OtherDatabaseError: it is not; the message names the remedy.
    """
    with engine.connect() as connection:
        found = _describe_other(connection)
    if found is not None:
        raise OtherDatabaseError(f"--storage {show_url(engine.url)}: {found}")


def has_studies(engine: Engine) -> bool:
    """Say whether a database has the tables of studies, or is new and empty."""
    return {"studies", "version_info"} <= set(inspect(engine).get_table_names())


def _describe_other(connection: Connection) -> str | None:
    inspector = inspect(connection)
    tables = set(inspector.get_table_names())
    if not tables:
        return None
    revisions: set[str] = set()
    if _REVISION_TABLE in tables:
        revisions = set(connection.scalars(select(column("version_num")).select_from(
            table(_REVISION_TABLE))))  # fmt: skip
    if _is_optunas("version_info", tables, inspector):
        made_by: Any = connection.execute(
            select(column("schema_version"), column("library_version")).select_from(
                table("version_info")
            )
        ).first()
        if made_by is None:
            return None
        return _describe_version(made_by.schema_version, made_by.library_version, revisions)
    others = sorted(
        name for name in tables - {_REVISION_TABLE} if not _is_optunas(name, tables, inspector)
    )
    # Without any of others', another driver is making Optuna's at this moment.
    if not others and not revisions:
        return None
    shown = ", ".join(others[:MAX_NAMES]) or _REVISION_TABLE
    more = ", …" if len(others) > MAX_NAMES else ""
    return (
        f"holds tables of another program ({shown}{more}), none of Optuna's, so nothing was "
        "changed there; name a database that is empty, or a new file"
    )


def _is_optunas(name: str, tables: set[str], inspector: Inspector) -> bool:
    if name not in TABLES or name not in tables:
        return False
    return TABLES[name] <= {each["name"] for each in inspector.get_columns(name)}


def _describe_version(schema: int, library: str, revisions: set[str]) -> str | None:
    is_present = revisions <= {REVISIONS[-1]}  # none: another driver is about to write it
    if schema == SCHEMA_VERSION and is_present:
        return None
    here = f"this program's Optuna {version('optuna')} (tables of {REVISIONS[-1]})"
    there = f"was made by Optuna {library} (tables of {', '.join(sorted(revisions)) or schema})"
    if schema <= SCHEMA_VERSION and revisions <= set(REVISIONS):
        return (
            f"{there}, older than {here}; copy it and bring it up to date with "
            "optuna storage upgrade --storage URL, or name another database"
        )
    return (
        f"{there}, newer than {here}; name another database, or take the release of "
        "rml-optimize that it was used with"
    )
