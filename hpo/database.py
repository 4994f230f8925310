"""Connects to the database that drivers share, and knows what an outage looks like."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from hpo.databaseurl import (
    Warn,
    count_time_in_utc,
    describe_error,
    parse_url,
    show_url,
    why_unreachable,
)
from hpo.errors import StorageError

FIRST_START_TRIES = 8  # several drivers on an empty database create its tables at once
DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError)  # Optuna wraps some of them
PATIENCE_S = 3600.0  # a server's restart or fail-over takes minutes
# A server that vanishes without a word must not hang a driver for the kernel's two hours.
_CONNECT_ARGS: dict[str, dict[str, Any]] = {
    "postgresql": {
        "connect_timeout": 10,
        "keepalives_idle": 20,
        "keepalives_interval": 5,
        "tcp_user_timeout": 30_000,  # ms
    },
    "mysql": {"connect_timeout": 10, "read_timeout": 60},
    "mariadb": {"connect_timeout": 10, "read_timeout": 60},
    "sqlite": {"timeout": 60},
}

T = TypeVar("T")


def open_storage(url: str) -> RDBStorage:
    """Connect to a database and make Optuna's tables where they are missing.

    Raises:
        StorageError: bad URL, missing driver, or no answer; the password is never shown.
    """
    parsed = parse_url(url)
    shown = show_url(parsed)
    if parsed.get_backend_name() == "sqlite":
        _make_folder(parsed, shown)
    # RDBStorage formats the URL, so braces (in a password, say) must be doubled.
    escaped = parsed.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    try:
        storage = retry_first_start(
            lambda: RDBStorage(escaped, engine_kwargs=engine_settings(parsed))
        )
    except (ImportError, TypeError, SQLAlchemyError, StorageInternalError) as error:
        raise StorageError(f"--storage {shown}: {why_unreachable(error, parsed)}") from None
    if count_time_in_utc(storage.engine):
        close_storage(storage)  # connections that were opened before
    return storage


def close_storage(storage: RDBStorage) -> None:
    """Close all connections: this thread's session, then the pool."""
    storage.remove_session()
    storage.engine.dispose()


def engine_settings(url: URL) -> dict[str, Any]:
    backend = url.get_backend_name()
    defaults = _CONNECT_ARGS.get(backend, {})
    # What the URL says holds: TLS settings, another time-out.
    arguments = {key: value for key, value in defaults.items() if key not in url.query}
    settings: dict[str, Any] = {"connect_args": arguments}
    if backend != "sqlite":
        # Each slot has a thread, and there may be many.
        settings |= {"pool_pre_ping": True, "pool_size": 5, "max_overflow": 64}
    if backend in ("mysql", "mariadb"):
        # Its default takes locks on gaps, and drivers that insert at once deadlock.
        settings["isolation_level"] = "READ COMMITTED"
    return settings


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
    """Say whether the database may answer again: it was restarted, say, or is busy."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, OperationalError):
        return "no such table" not in str(cause)  # SQLite's, of a file that was removed
    # Pending: the connection broke while Optuna read trials, and it asked once more on the same.
    return isinstance(cause, InterfaceError | PoolTimeoutError | PendingRollbackError) or (
        isinstance(cause, DBAPIError) and cause.connection_invalidated
    )


class Patience:
    """Waits for a database that is away, while workers go on training."""

    def __init__(self, url: URL, stopping: threading.Event, warn: Warn) -> None:
        self._url = url
        self._stopping = stopping
        self._warn = warn
        self._away_since: float | None = None

    def call(self, action: Callable[[], T]) -> T:
        """Do something with the database, again and again until it answers.

        Raises:
            StorageError: it is broken, has been away for PATIENCE_S, or the search is stopped.
        """
        delay_s = 0.2
        while True:
            try:
                result = action()
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
        if not is_away(error) or now - since > PATIENCE_S:
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
