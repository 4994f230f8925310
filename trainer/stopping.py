"""Requests to stop: SIGTERM, and one that is looked at between steps.

SIGTERM ends a process wherever its main thread is; nobody knows what is left half done then. A
worker that goes on with other runs (`trainer.commands.serve`) is asked in the second way instead.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from trainer.errors import StopRequestedError


class _Request:
    """What has been asked for, by whatever thread."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.keep_state = False
        self.is_held_back = False
        self.was_held_back = False


_request = _Request()


def stop_on_sigterm() -> None:
    """Let SIGTERM raise StopRequestedError where the main thread is; to be called there."""
    _request.is_held_back = _request.was_held_back = False
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    if _request.is_held_back:
        _request.was_held_back = True
        return
    # A second one (a scheduler sends it to all processes, and a driver to its workers) must not
    # interrupt what the first one makes us write.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise StopRequestedError("stopped on request (SIGTERM)")


@contextlib.contextmanager
def sigterm_held_back() -> Iterator[None]:
    """Do something as a whole: SIGTERM counts from its end on."""
    _request.is_held_back = True
    try:
        yield
    finally:
        _request.is_held_back = False
        if _request.was_held_back:
            _request.was_held_back = False
            _terminate(signal.SIGTERM, None)


def request_stop(*, keep_state: bool = False) -> None:
    """Ask the run to stop at its next step; safe to call from any thread.

    Args:
        keep_state: somebody will go on with the run, so its state must be written.
    """
    _request.keep_state = keep_state
    _request.stop.set()


def forget_stop() -> None:
    """Let the next run begin without the last one's request."""
    _request.stop.clear()


def is_stop_requested() -> bool:
    """Say whether the run has been asked to stop."""
    return _request.stop.is_set()


def stop_if_requested() -> None:
    """Raise StopRequestedError if the run has been asked to stop."""
    if _request.stop.is_set():
        raise StopRequestedError("stopped on request", keep_state=_request.keep_state)
