"""Runs one worker, and ends with it whatever it has started, in sessions of their own too.

Run as a script, one per worker: `python -I -S reaper.py STATUS MARKER COMMAND …`. STATUS is a pipe
to the driver, which gets the number of the error if the worker cannot be started. MARKER is the
variable NAME=VALUE by which the guard finds the worker.

Whatever loses its parent below this process becomes its child (PR_SET_CHILD_SUBREAPER of Linux): a
daemon can leave its session and clear its environment, but not that. When the worker has ended,
all of it is killed; the exit code is the worker's, 128+n for signal n. The signals that end a
group pass this process by; END_ALL kills the worker and with it the rest, END_WORKER asks the
worker alone to end. Imports only what starts fast; nothing of ours.
"""

import ctypes
import os
import signal
import sys
import time

END_ALL, END_WORKER = signal.SIGUSR1, signal.SIGUSR2

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
_KILL_LIMIT_S = 4.0  # less than the driver gives us
_LOOK_INTERVAL_S = 0.01
_PASSED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def children() -> list[int]:
    """Return our children, those that we have inherited among them."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", errors="replace") as file:  # noqa: PTH123
                parent = file.read().rpartition(")")[2].split()[1]
        except (OSError, IndexError):  # gone
            continue
        if int(parent) == os.getpid():
            found.append(int(name))
    return found


def send(pid: int, number: int) -> None:
    """Send a signal to a child of ours, which may have been faster."""
    try:
        os.kill(pid, number)
    except OSError:
        return


def kill_children() -> None:
    """Kill our children until there are none; those of theirs become ours meanwhile."""
    deadline = time.monotonic() + _KILL_LIMIT_S
    while time.monotonic() < deadline:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        for pid in children():
            send(pid, signal.SIGKILL)
        time.sleep(_LOOK_INTERVAL_S)


def start(command: list[str], environment: dict[str, str], status: int) -> int:
    """Start the worker; what keeps it from starting goes to the driver."""
    pid = os.fork()
    if pid == 0:
        for number in (*_PASSED_BY, *_IGNORED_BY_PYTHON):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvpe(command[0], command, environment)
        except OSError as error:
            os.write(status, str(error.errno).encode())
        os._exit(127)
    return pid


def main(status: int, marker: str, command: list[str]) -> int:
    """Run the worker; return its exit code once all is gone."""
    os.set_inheritable(status, False)  # it closes where the worker runs
    for number in _PASSED_BY:
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    name, _, value = marker.partition("=")
    worker = start(command, {**os.environ, name: value}, status)
    # it is not waited for yet, so its number is no other's
    signal.signal(END_ALL, lambda *_: send(worker, signal.SIGKILL))
    signal.signal(END_WORKER, lambda *_: send(worker, signal.SIGTERM))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # the worker's alone
        os.dup2(nowhere, stream)
    os.close(status)
    while True:
        ended, how = os.waitpid(-1, 0)
        if ended == worker:
            break
    for number in (END_ALL, END_WORKER):
        signal.signal(number, signal.SIG_IGN)
    kill_children()
    code = os.waitstatus_to_exitcode(how)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
