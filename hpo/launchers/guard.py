"""Ends the local workers of a driver that died without a chance to do so (SIGKILL, out of memory).

Run as a script, one per driver: `python -I -S guard.py TOKEN`, standard input a pipe from the
driver. A byte on it means that the driver ends in order; its end without one, that the driver
is dead: then every process with RML_WORKER_OF=TOKEN in its environment is killed.

Why not PR_SET_PDEATHSIG: it is tied to the thread that forked (slots are threads), reaches the
child but not its children, and needs code between fork and exec. The environment is inherited
by whatever a worker starts, sessions of its own included, and is set before the worker runs.
Imports only what starts fast; nothing of ours.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator

MARKER = "RML_WORKER_OF"
_EMPTY_LOOKS = 20  # a worker may be between fork and exec when its driver dies
_LOOK_INTERVAL_S = 0.05


def processes() -> Iterator[tuple[int, str]]:
    """Yield the process ids in the process table with the folder that describes each."""
    try:
        names = os.listdir("/proc")  # noqa: PTH208  (pathlib would double the start time)
    except FileNotFoundError:  # no such table here: nothing can be found
        return
    for name in names:
        if name.isdigit():
            yield int(name), f"/proc/{name}"


def marked_processes() -> Iterator[tuple[int, str]]:
    """Yield the living processes of this user that carry a token in their environment."""
    prefix = f"{MARKER}=".encode()
    for pid, folder in processes():
        try:
            if os.stat(folder).st_uid != os.geteuid():  # noqa: PTH116
                continue
            with open(f"{folder}/environ", "rb") as file:  # noqa: PTH123
                environment = file.read()
        except OSError:  # gone
            continue
        for entry in environment.split(b"\0"):
            if entry.startswith(prefix):
                yield pid, entry[len(prefix) :].decode(errors="replace")


def marked(token: str) -> list[int]:
    """Return the living processes that carry this token."""
    return [pid for pid, found in marked_processes() if found == token]


def kill_marked(token: str) -> None:
    """Kill until nothing has been found for a second."""
    empty_looks = 0
    while empty_looks < _EMPTY_LOOKS:
        pids = marked(token)
        empty_looks = 0 if pids else empty_looks + 1
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:  # it was faster
                continue
        time.sleep(_LOOK_INTERVAL_S)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the driver's end ends the guard
    if not os.read(0, 1):
        kill_marked(sys.argv[1])
