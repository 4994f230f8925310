"""Claims trials for the slots of one driver, of which one at a time asks the database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hpo.store.claim import Lease

# Between two questions for a trial that other drivers may give back. Each takes the study's lock,
# for which every driver of the study waits.
FIRST_DELAY_S = 0.2
LAST_DELAY_S = 2.0
_STEP_S = 0.1  # between two looks at whether to stop


@dataclass(frozen=True, kw_only=True)
class Claims:
    """Hands out trials; those that find none wait behind the one that asks.

    Attributes:
        claim: asks for a trial.
        is_done: says whether the study has all its trials; one that still runs elsewhere may yet
            fail or be given back.
    """

    claim: Callable[[], Lease | None]
    is_done: Callable[[], bool]
    stopping: threading.Event
    _asking: threading.Lock = field(default_factory=threading.Lock)
    _changed: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)

    def next(self) -> Lease | None:
        """Wait for a trial; None when there will be none, or the search is to stop."""
        while not self._asking.acquire(timeout=_STEP_S):
            if self.stopping.is_set():
                return None
        try:
            return self._ask()
        finally:
            self._asking.release()

    def trial_ended(self) -> None:
        """Have who waits ask at once: a trial of this driver may have been given back."""
        self._changed.set()

    def _ask(self) -> Lease | None:
        delay_s = FIRST_DELAY_S
        while not self.stopping.is_set() and not self._over.is_set():
            self._changed.clear()
            lease = self.claim()
            if lease is not None:
                return lease
            if self.is_done():
                self._over.set()
                return None
            self._wait(delay_s)
            delay_s = min(2 * delay_s, LAST_DELAY_S)
        return None

    def _wait(self, delay_s: float) -> None:
        deadline = time.monotonic() + delay_s
        while (left_s := deadline - time.monotonic()) > 0 and not self.stopping.is_set():
            if self._changed.wait(min(left_s, _STEP_S)):
                return
