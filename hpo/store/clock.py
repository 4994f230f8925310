"""The clocks of leases, and of a study's budget: they go on while the machine sleeps.

And the time of day of trials' starts and ends.
"""

from __future__ import annotations

import datetime as dt
import time

from sqlalchemy import Connection, text

# macOS's counts sleep, Linux's does not; `time.monotonic()` counts it on neither.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_DATABASE_SECONDS = {  # since 1970, whatever the session's time zone
    "sqlite": "(julianday('now') - 2440587.5) * 86400",
    "postgresql": "extract(epoch from clock_timestamp())",
    "mysql": "unix_timestamp()",
    "mariadb": "unix_timestamp()",
}


def seconds() -> float:
    """Return seconds since an arbitrary moment, those of suspend included."""
    return time.clock_gettime(_CLOCK)


def database_seconds(connection: Connection) -> float:
    """Return the seconds since 1970 by the database's clock, which all drivers share."""
    return float(connection.scalar(text(f"SELECT {_DATABASE_SECONDS[connection.dialect.name]}")))


def utc_now() -> dt.datetime:
    """Return the time of day as Optuna's tables hold it: UTC, without saying so."""
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)
