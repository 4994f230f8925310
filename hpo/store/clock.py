"""The clock of leases: it goes on while the machine sleeps, as the database's does."""

from __future__ import annotations

import time

# macOS's counts sleep, Linux's does not; `time.monotonic()` counts it on neither.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def seconds() -> float:
    """Return seconds since an arbitrary moment, those of suspend included."""
    return time.clock_gettime(_CLOCK)
