"""Stops a driver within seconds of a signal, even if its database does not answer."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

# Schedulers kill after 30 s (Kubernetes, scancel) or more.
LIMIT_S = 12.0
_CLOSING_LIMIT_S = 4.0
_SAYING_LIMIT_S = 0.5
_IMPATIENCE_S = 1.0  # a scheduler may send its signal twice at once
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest(threading.Event):
    """Set by a signal: workers are stopped, trials given back, and the driver leaves.

    Attributes:
        signal: the first one that came; None if nothing or something else has set it.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self.signal: int | None = None
        self._say = say
        self._has_ended = threading.Event()
        self._last_acts: list[Callable[[], None]] = []

    def before_leaving(self, act: Callable[[], None]) -> None:
        """Have something done before the process ends, even if it cannot end in order."""
        self._last_acts.append(act)

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let SIGINT, SIGTERM and SIGHUP set it; a second Ctrl-C leaves at once.

        A thread listens: the main one may be inside a call that lets no signal handler run.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        # nohup has told us to ignore SIGHUP
        numbers = [n for n in SIGNALS if n != signal.SIGHUP or _is_heeded(n)]
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        former = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(reader,), daemon=True).start()
        try:
            yield
        finally:
            # Who was asked to stop has little time left, and another signal changes nothing.
            if self.signal is None:
                self._has_ended.set()
                signal.set_wakeup_fd(former)
                for number, handler in before.items():
                    signal.signal(number, handler)
                os.close(writer)

    @contextlib.contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """Let the same signals set it in a process that lives on, such as a notebook's.

        A second one interrupts at once. In another thread than the main one Python lets nobody
        handle signals, so there nothing is changed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [n for n in SIGNALS if n != signal.SIGHUP or _is_heeded(n)]
        before = {number: signal.signal(number, self._interrupted) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        self.set()
        self._try_to_say("stopping: workers are ended and their trials given back …")

    def raise_signal(self) -> None:
        """Raise what the signal that came would have raised; nothing without one."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def _listen(self, reader: int) -> None:
        while numbers := os.read(reader, 64):
            now = time.monotonic()
            if self.signal is None:
                self.signal, since = numbers[0], now
                self.set()
                threading.Thread(target=self._see_to_the_end, daemon=True).start()
            elif signal.SIGINT in numbers and now - since > _IMPATIENCE_S:
                self._leave()
        os.close(reader)

    def _see_to_the_end(self) -> None:
        deadline = time.monotonic() + LIMIT_S
        _mute_lost_outputs()
        self._try_to_say("stopping: workers are ended and their trials given back …")
        while not self._has_ended.wait(0.1):
            _mute_lost_outputs()  # they may be lost a little later than the signal comes
            if time.monotonic() > deadline:
                self._try_to_say(
                    "warning: stopped before everything was done, because something (the "
                    "database?) does not answer; trials that were not given back are taken over "
                    "when their lease expires"
                )
                self._leave()

    def _try_to_say(self, text: str) -> None:
        """Say it, but go on if nothing takes it (a full pipe, Ctrl-S)."""
        saying = threading.Thread(target=self._say, args=(text,), daemon=True)
        saying.start()
        saying.join(_SAYING_LIMIT_S)

    def _leave(self) -> None:
        """End the process, and what it has started, without waiting for any thread of it."""
        closing = threading.Thread(target=self._close, daemon=True)
        closing.start()
        closing.join(_CLOSING_LIMIT_S)
        os._exit(128 + (self.signal or 0))

    def _close(self) -> None:
        for act in (*self._last_acts, sys.stdout.flush, sys.stderr.flush):
            with contextlib.suppress(Exception):
                act()


def _is_heeded(number: signal.Signals) -> bool:
    return signal.getsignal(number) is not signal.SIG_IGN


def _mute_lost_outputs() -> None:
    """Send what would go to a closed terminal, or to a reader that is gone, to /dev/null."""
    poll = select.poll()
    for output in (1, 2):
        poll.register(output, 0)
    lost = [output for output, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP)]
    if lost:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for output in lost:
            os.dup2(nowhere, output)
        os.close(nowhere)
