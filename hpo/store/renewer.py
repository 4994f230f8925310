"""Renews a driver's leases, and its sign of life, in the background."""

from __future__ import annotations

import threading

from hpo.store import clock
from hpo.store.claim import Lease
from hpo.store.database import DATABASE_ERRORS
from hpo.store.lease import LeaseManager

ROUNDS_PER_LEASE = 4
TICK_S = 1.0


class Renewer:
    """Renews the leases of one driver, and knows which were lost and whether all is steady.

    Steady means that every lease was renewed without an error and without a pause for one full
    lease time. Only then may this driver take trials from others: after an outage of the
    database, or a pause of this machine, everybody's lease looks expired until it is renewed.
    """

    def __init__(self, lease_manager: LeaseManager) -> None:
        self._lease_manager = lease_manager
        self._held: dict[str, Lease] = {}
        self._lost: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._steady_since = self._last_round = clock.seconds()
        self._thread = threading.Thread(target=self._run, name="lease-renewer", daemon=True)
        self._thread.start()

    @property
    def is_steady(self) -> bool:
        """Whether trials of silent drivers may be taken over."""
        now, lease_s = clock.seconds(), self._lease_manager.lease_s
        # The last round too, or a round that hangs would look like peace.
        is_up_to_date = now - self._last_round < 2 * lease_s / ROUNDS_PER_LEASE
        return is_up_to_date and now - self._steady_since >= lease_s

    def hold(self, lease: Lease) -> None:
        """Renew this lease from now on."""
        with self._lock:
            self._held[lease.token] = lease

    def release(self, lease: Lease) -> None:
        """Renew it no more."""
        with self._lock:
            self._held.pop(lease.token, None)
            self._lost.discard(lease.token)

    @property
    def tokens(self) -> list[str]:
        """What the trials are held by that this driver runs."""
        with self._lock:
            return list(self._held)

    def is_lost(self, lease: Lease) -> bool:
        """Say whether somebody else has taken the trial over."""
        return lease.token in self._lost

    def close(self) -> None:
        """Stop renewing."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        interval_s = self._lease_manager.lease_s / ROUNDS_PER_LEASE
        due = self._last_round + interval_s
        while not self._stopping.wait(min(interval_s, TICK_S)):
            self._lease_manager.close_idle()
            began = clock.seconds()
            if began < due:
                continue
            is_calm = began - self._last_round < 2 * interval_s  # else we were paused
            due = began + interval_s
            try:
                self._renew_all()
            except DATABASE_ERRORS:
                is_calm = False  # unreachable for the moment
                due = 0.0  # a connection was lost: over a new one there is time yet
            now = clock.seconds()
            if not is_calm or now - began > interval_s:
                self._steady_since = now
            self._last_round = now

    def _renew_all(self) -> None:
        with self._lock:
            held = list(self._held.values())
        for lease in held:
            if not self._lease_manager.renew(lease):
                with self._lock:
                    if lease.token in self._held:  # it may have been finished meanwhile
                        self._lost.add(lease.token)
        self._lease_manager.presence.renew()
