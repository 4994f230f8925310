"""Connects to the database that drivers share, and tells an outage from other errors."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    OperationalError,
    PendingRollbackError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from hpo.errors import StorageError
from hpo.store.connections import DEFAULT_LEASE_S, abandon, be_strict, engine_settings
from hpo.store.damage import is_damage, refuse_damaged
from hpo.store.databaseurl import (
    Warn,
    describe_error,
    is_other_server,
    parse_url,
    show_url,
    why_unreachable,
)
from hpo.store.schema import check_schema, has_studies

FIRST_START_TRIES = 8  # several drivers on an empty database create its tables at once
DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError)  # Optuna wraps some of them
WAIT_LIMIT_S = 3600.0  # a server's restart or fail-over takes minutes

START_WAIT_LIMIT_S = 60.0  # it may be restarting, or all its connections are taken
_INSUFFICIENT_PRIVILEGE = "42501"
# What a server says that is starting or overloaded. Errors that waiting does not cure (a wrong
# password, host or database, a certificate) have no code of their own where nothing is connected.
_STARTING = (
    "connection refused",
    "connection reset",
    "connection timed out",
    "timeout expired",
    "timed out",
    "server closed the connection",
    "lost connection",
    "no route to host",
    "network is unreachable",
    "temporary failure in name resolution",
    "starting up",
    "shutting down",
    "recovery",
    "too many c",  # clients, connections, connections for role
    "connection slots",
    "max_user_connections",
    "no answer for",
    "lock wait timeout",
    "deadlock",
    "database is locked",
    "read-only",
    "read_only",
)

P = ParamSpec("P")
T = TypeVar("T")


def open_storage(
    url: str, lease_s: float = DEFAULT_LEASE_S, *, makes_tables: bool = True
) -> RDBStorage:
    """Connect to a database and make Optuna's tables where they are missing.

    Args:
        url: SQLAlchemy's.
        lease_s: of the study's trials; nobody waits as long for an answer or a lock.
        makes_tables: False to leave a database as it is, and refuse one without studies' tables.

    Raises:
        StorageError: bad URL, missing driver, no answer, or a database of another program or
            another Optuna, which is left as it is; the password is never shown.
    """
    parsed = parse_url(url)
    shown = show_url(parsed)
    if parsed.get_backend_name() == "sqlite":
        if makes_tables:
            _make_folder(parsed, shown)
        elif not Path(str(parsed.database)).exists():  # SQLite would make it
            raise StorageError(f"--storage {shown}: no such file")
        refuse_damaged(parsed)
    # RDBStorage formats the URL, so braces (in a password, say) must be doubled.
    escaped = parsed.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    settings = engine_settings(parsed, lease_s)

    def open_one() -> RDBStorage:
        try:
            _look(parsed, settings, may_be_empty=makes_tables)
            return RDBStorage(
                escaped, engine_kwargs=settings, skip_table_creation=not makes_tables
            )
        except BaseException:
            abandon(settings)
            raise

    try:
        storage = retry_first_start(open_one)
    except (ImportError, TypeError, SQLAlchemyError, StorageInternalError) as error:
        kind = DatabaseAwayError if _may_start_soon(error) else StorageError
        raise kind(f"--storage {shown}: {why_unreachable(error, parsed)}") from None
    close_storage(storage)
    be_strict(settings)
    return storage


def _look(url: URL, settings: Mapping[str, Any], *, may_be_empty: bool) -> None:
    """Refuse a database that is not Optuna's, before Optuna makes its tables there."""
    engine = create_engine(url, **settings)
    try:
        check_schema(engine)
        if not may_be_empty and not has_studies(engine):
            raise StorageError(
                f"--storage {show_url(url)}: the database has no studies yet; name that of a "
                "search that was begun"
            )
    except SQLAlchemyError as error:
        if is_other_server(error, url):  # at once: each try would take as long
            raise StorageError(
                f"--storage {show_url(url)}: {why_unreachable(error, url)}"
            ) from None
        raise
    finally:
        engine.dispose()


class DatabaseAwayError(StorageError):
    """The database cannot be reached now, and may be later."""


def wait_for_storage(
    url: str, lease_s: float, stopping: threading.Event, warn: Warn
) -> RDBStorage:
    """Open a storage; wait for up to START_WAIT_LIMIT_S for a database that is starting.

    Raises:
        StorageError: as `open_storage`; or the search was stopped meanwhile.
    """
    deadline = time.monotonic() + START_WAIT_LIMIT_S
    delay_s = 0.5
    while True:
        try:
            return open_storage(url, lease_s)
        except DatabaseAwayError as error:
            if time.monotonic() > deadline:
                raise
            if delay_s < 1:
                warn(f"{error}; tries again for {START_WAIT_LIMIT_S:g} s")
            if stopping.wait(delay_s * random.uniform(0.5, 1)):  # not all nodes at once
                raise
            delay_s = min(2 * delay_s, 5.0)


def close_storage(storage: RDBStorage) -> None:
    """Close all connections: this thread's session, then the pool."""
    storage.remove_session()
    storage.engine.dispose()


def _make_folder(url: URL, shown: str) -> None:
    if url.database in (None, "", ":memory:"):
        raise StorageError(f"--storage {shown}: a study needs a file, such as sqlite:///study.db")
    try:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"--storage {shown}: its folder cannot be made ({error.strerror})"
        ) from None


def retry_first_start(action: Callable[[], T]) -> T:
    """Do what several drivers on an empty database do at once, and all but one fail at first."""
    for remaining in range(FIRST_START_TRIES - 1, -1, -1):
        try:
            return action()
        except (IntegrityError, ProgrammingError, StorageInternalError):
            if not remaining:
                raise
        except OperationalError:
            # Also what an unreachable server raises: few tries, or a typo takes a minute.
            if remaining < FIRST_START_TRIES - 3:
                raise
        time.sleep(0.1 * (FIRST_START_TRIES - remaining))
    raise AssertionError("unreachable")


def is_away(error: BaseException) -> bool:
    """Say whether the database may do what it is asked later on.

    It was restarted, say, is busy or full, lets nobody write for a while, or a right was revoked.
    """
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    # Pending: the connection broke while Optuna read trials, and it asked once more on the same.
    if isinstance(cause, PoolTimeoutError | PendingRollbackError):
        return True
    if not isinstance(cause, DBAPIError):
        return False
    if is_damage(cause):
        return False
    if cause.connection_invalidated:
        return True
    if isinstance(cause, ProgrammingError):  # a table is missing; or a right
        return getattr(cause.orig, "sqlstate", None) == _INSUFFICIENT_PRIVILEGE
    if isinstance(cause, DataError | IntegrityError | NotSupportedError):
        return False
    return "no such table" not in str(cause)  # SQLite's, of a file that was removed


def _may_start_soon(error: BaseException) -> bool:
    """Say whether a database that cannot be reached may be starting or overloaded."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if not isinstance(cause, DBAPIError):
        return False
    # With a code there was a session, so nothing is wrong with the URL.
    code = getattr(cause.orig, "sqlstate", None)
    if cause.connection_invalidated or (code and code != _INSUFFICIENT_PRIVILEGE):
        return is_away(error)
    text = str(cause).lower()
    return any(sign in text for sign in _STARTING)


class DatabaseRetry:
    """Waits for a database that is away, while workers go on training."""

    def __init__(self, url: URL, stopping: threading.Event, warn: Warn) -> None:
        self._url = url
        self._stopping = stopping
        self._warn = warn
        self._away_since: float | None = None

    def call(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do something with the database, again and again until it answers.

        Raises:
            StorageError: it is broken, has been away for WAIT_LIMIT_S, or the search is stopped.
        """
        delay_s = 0.2
        while True:
            try:
                result = action(*args, **kwargs)
            except DATABASE_ERRORS as error:
                self.failed(error)
                if self._stopping.wait(delay_s):
                    raise self._error(error) from None
                delay_s = min(2 * delay_s, 5.0)
            else:
                self.succeeded()
                return result

    def failed(self, error: Exception) -> None:
        """Note an error; raise StorageError if waiting helps no more."""
        now = time.monotonic()
        # Read once: another slot's success may clear it at any moment.
        since = self._away_since
        if since is None:
            self._away_since = since = now
            if is_away(error):
                self._warn(
                    f"the study's database does not answer ({describe_error(error, self._url)}); "
                    "workers go on, their results are reported when it is back"
                )
        if not is_away(error) or now - since > WAIT_LIMIT_S:
            raise self._error(error) from None

    def succeeded(self) -> None:
        """Note that the database answers."""
        self._away_since = None

    def _error(self, error: Exception) -> StorageError:
        return StorageError(f"the study's database went away: {describe_error(error, self._url)}")


def locking_engine(storage: RDBStorage) -> Engine:
    """Return an engine whose transactions lock from their first statement on."""
    engine = storage.engine
    if engine.name != "sqlite":
        return engine
    # SQLite drops FOR UPDATE silently and a SELECT opens no transaction there.
    locking = create_engine(engine.url)

    @event.listens_for(locking, "connect")
    def _no_implicit_begin(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA busy_timeout = 60000")

    @event.listens_for(locking, "begin")
    def _begin_immediate(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return locking
