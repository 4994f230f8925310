"""Says whose a worker is, so that what a dead driver left behind can be found and removed.

Workers carry the database's id, host, user and driver session. A driver removes only what belongs
to its own database, host and user, and to a session that is dead.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

DATABASE, HOST, UID, SESSION = "rml.database", "rml.host", "rml.uid", "rml.session"
_DEAD_STATES = "ZX"  # a zombie, which nobody may be there to reap


def driver_labels(database_id: str) -> dict[str, str]:
    """Return the labels of the workers that this process starts."""
    return {
        DATABASE: database_id,
        HOST: socket.gethostname(),
        UID: str(os.getuid()),
        SESSION: _session(os.getpid()),
    }


def own_filter(labels: Mapping[str, str]) -> list[str]:
    """Return what selects, among an engine's containers, those of our database, host and user."""
    return [f"{key}={labels[key]}" for key in (DATABASE, HOST, UID)]


def is_dead(session: str) -> bool:
    """Say whether the driver of a session is known to be gone.

    A driver in another process namespace of this machine cannot be judged from here.
    """
    boot, namespace, pid, start = [*session.split("."), *[""] * 3][:4]
    own = _session(os.getpid()).split(".")
    if not start or not pid.isdigit() or not own[0]:
        return False
    if boot != own[0]:
        return True  # the machine has started anew since
    return namespace == own[1] and _start_time(int(pid)) != start


def _session(pid: int) -> str:
    boot = namespace = ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:  # not Linux: nothing is ever swept
        boot = ""
    return f"{boot}.{namespace}.{pid}.{_start_time(pid)}"


def _start_time(pid: int) -> str:
    """Return when a living process started, in clock ticks since boot; empty if it is gone."""
    try:
        # The name before ")" may hold anything; then: state, parent, …, start time.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in _DEAD_STATES else fields[19]
