"""Opens few connections to a shared database, none of which waits for ever.

The time limits follow from the lease, the shortest first: the server ends a session that holds
locks and says nothing (a driver that was stopped, a machine without power); a statement that waits
for a lock fails; the driver drops a server that does not answer. What has failed so is tried again
over a new connection.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sqlalchemy import URL, Engine, QueuePool
from sqlalchemy.util.queue import Empty

DEFAULT_LEASE_S = 30.0
NUM_CONNECTIONS = 4  # of a driver: PostgreSQL takes a hundred by default, a cluster has more nodes
CONNECT_TIMEOUT_S = 10
_STATEMENT_TIMEOUT_S = 120  # on the server, which else works on for a client that has left
# Optuna reads its migrations inside a transaction, for seconds on a slow disk; it locks nothing.
_LAX_S = 60
_TCP = {
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms
}


@dataclass(frozen=True)
class Limits:
    """The time limits of a connection, derived from the lease of a trial."""

    lease_s: float = DEFAULT_LEASE_S

    @property
    def in_transaction_s(self) -> float:
        """Until the server ends a session that holds locks and says nothing."""
        return min(max(self.lease_s / 4, 2.0), 30.0)

    @property
    def lock_s(self) -> float:
        """Until a statement that waits for a row fails."""
        return min(max(self.lease_s / 3, 3.0), 40.0)

    @property
    def silence_s(self) -> float:
        """Until a server that does not answer is left."""
        return min(max(self.lease_s / 2, 5.0), 60.0)


def engine_settings(url: URL, lease_s: float = DEFAULT_LEASE_S) -> dict[str, Any]:
    """Return what SQLAlchemy's `create_engine` needs besides the URL."""
    if url.get_backend_name() == "sqlite":
        return {} if "timeout" in url.query else {"connect_args": {"timeout": 60}}
    limits = Limits(lease_s)
    return {
        "creator": _Connector(url, limits),
        # MySQL's default takes locks on gaps, and drivers that insert at once deadlock; in
        # PostgreSQL a database may have another default, in which what a claim has waited for
        # stays out of its sight.
        "isolation_level": "READ COMMITTED",
        "poolclass": LimitedPool,
        "pool_pre_ping": True,
        "pool_size": NUM_CONNECTIONS,
        "max_overflow": 0,
        "pool_timeout": limits.silence_s,
        "pool_use_lifo": True,
    }


def abandon(settings: Mapping[str, Any]) -> None:
    """Close the connections that an engine with these settings has opened and could not use.

    A server allows only so many: another driver may be waiting for one.
    """
    connector = settings.get("creator")
    if isinstance(connector, _Connector):
        connector.close_all()


def be_strict(settings: Mapping[str, Any]) -> None:
    """Use the lease's limit on idle transactions from now on, instead of a minute."""
    connector = settings.get("creator")
    if isinstance(connector, _Connector):
        connector.be_strict()
        connector.close_all()


def close_idle(engine: Engine) -> None:
    """Close the connections of a pool that nobody uses at this moment."""
    pool = engine.pool
    if isinstance(pool, LimitedPool) and not pool.checkedout():
        pool.close_idle()


class LimitedPool(QueuePool):
    """SQLAlchemy's pool, which can close what waits in it while others take from it.

    Its `dispose` forgets how many connections are taken at that moment, and opens more than its
    size afterwards.
    """

    def close_idle(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                record = self._pool.get(block=False)
                try:
                    record.close()
                finally:
                    self._dec_overflow()


@dataclass(frozen=True)
class _Connector:
    """Opens connections; an object, as Optuna's storages are pickled with what opens theirs."""

    url: URL
    limits: Limits
    _open: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet, compare=False)
    _is_strict: threading.Event = field(default_factory=threading.Event, compare=False)

    def __call__(self) -> Any:
        connect, arguments, named = self._plan
        statement = _session_settings(self.url, self.limits, is_strict=self._is_strict.is_set())
        connection = connect(*arguments, **named)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
            connection.commit()
        except BaseException:
            connection.close()
            raise
        self._open.add(connection)
        return connection

    def be_strict(self) -> None:
        """Use the shorter limit on idle transactions from the next connection on."""
        self._is_strict.set()

    def close_all(self) -> None:
        """Close what it has opened and is open still."""
        for connection in list(self._open):
            with contextlib.suppress(Exception):  # PyMySQL closes none twice
                connection.close()

    @cached_property
    def _plan(self) -> tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]:
        kind: Any = self.url.get_dialect()
        dbapi: Any = kind.import_dbapi()
        arguments, of_url = kind(dbapi=dbapi).create_connect_args(self.url)
        # What the URL says holds: TLS settings, another time-out.
        named = {**_connect_arguments(self.url, self.limits), **of_url}
        connect = dbapi.connect
        if kind.driver == "psycopg":
            connect = _limited(self.limits.silence_s)
        return connect, arguments, named

    def __reduce__(self) -> tuple[Any, ...]:
        return _Connector, (self.url, self.limits)


def _connect_arguments(url: URL, limits: Limits) -> dict[str, Any]:
    if url.get_backend_name() == "postgresql":
        return {"connect_timeout": CONNECT_TIMEOUT_S, **_TCP}
    silence_s = round(limits.silence_s)
    return {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": silence_s,
        "write_timeout": silence_s,
    }


def _session_settings(url: URL, limits: Limits, *, is_strict: bool) -> str:
    """Return the statement that a session begins with.

    Time is counted in UTC: else it would be in the time zone that a node's client announces.
    """
    idle_s = round(limits.in_transaction_s) if is_strict else _LAX_S
    lock_s = round(limits.lock_s)
    if url.get_backend_name() == "postgresql":
        return (
            "SET TIME ZONE 'UTC'; "
            f"SET idle_in_transaction_session_timeout = '{idle_s}s'; "
            f"SET lock_timeout = '{lock_s}s'; SET statement_timeout = '{_STATEMENT_TIMEOUT_S}s'"
        )
    # Only MariaDB tells a session in a transaction from an idle one.
    return (
        f"SET time_zone = '+00:00', wait_timeout = {idle_s}, "
        f"innodb_lock_wait_timeout = {lock_s}, lock_wait_timeout = {lock_s}"
    )


def _limited(silence_s: float) -> Callable[..., Any]:
    """Return psycopg's `connect`, of connections that don't wait for ever.

    The kernel's time-outs end a connection whose machine is gone; not one whose server, or a
    machine between, takes what is sent and answers nothing.
    """
    from psycopg import Connection, OperationalError

    class LimitedConnection(Connection[Any]):
        def wait(self, gen: Any, *arguments: Any, **named: Any) -> Any:
            return super().wait(self._limit(gen), *arguments, **named)

        def _limit(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            heard = time.monotonic()
            try:
                wanted = next(gen)
                while True:
                    ready = yield wanted  # what the socket is ready for; nothing, 10 times a s
                    now = time.monotonic()
                    if ready:
                        heard = now
                    elif now - heard > silence_s:
                        self.pgconn.finish()
                        raise OperationalError(f"no answer for {silence_s:g} s")
                    wanted = gen.send(ready)
            except StopIteration as end:
                return end.value

    return LimitedConnection.connect
