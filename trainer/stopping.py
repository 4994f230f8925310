"""A request to stop that is looked at between steps, so that what it ends can be used again.

SIGTERM ends a process wherever it is; nobody knows what is left half done then. A worker that
goes on with other runs (`trainer.serve`) is asked in this way instead.
"""

from __future__ import annotations

import threading

from trainer.errors import StopRequestedError

_requested = threading.Event()


def request_stop() -> None:
    """Ask the run to stop at its next step; safe to call from any thread."""
    _requested.set()


def forget_stop() -> None:
    """Let the next run begin without the last one's request."""
    _requested.clear()


def is_stop_requested() -> bool:
    """Say whether the run has been asked to stop."""
    return _requested.is_set()


def stop_if_requested() -> None:
    """Raise StopRequestedError if the run has been asked to stop."""
    if _requested.is_set():
        raise StopRequestedError("stopped on request")
