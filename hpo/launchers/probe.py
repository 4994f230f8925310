"""Asks a worker what it can do beyond the contract."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from pathlib import Path

from hpo.errors import LauncherError
from hpo.launchers.base import Handle, Launcher, Slot, WorkerJob

PROBE_ARGS = ("--capabilities",)
PROBE_TIMEOUT_S = 20.0
CANNOT_RUN = (126, 127)  # of shells, env and docker-init: not executable, not found
SINGULARITY_FAILED, SINGULARITY_ERROR = 255, "FATAL: "  # its own exit code, and its last line
_PROBE_LINES = 200  # warnings may surround the answer


class AskedOnce:
    """What a launcher's worker can do; safe to ask from several threads at once."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._answer: frozenset[str] | None = None
        self._lock = threading.Lock()

    def answer(self) -> frozenset[str]:
        """Ask the worker at the first call."""
        with self._lock:
            if self._answer is None:
                self._answer = ask_capabilities(self._launcher)
            return self._answer


def ask_capabilities(launcher: Launcher, timeout_s: float = PROBE_TIMEOUT_S) -> frozenset[str]:
    """Start the worker once with `--capabilities` and read its JSON answer.

    An engine that doesn't know the option fails, prints its help, or hangs: all of that means
    "the contract's keys only". A worker that can't be started at all raises LauncherError.
    """
    with tempfile.TemporaryDirectory(prefix="rml-probe-") as folder:
        slot = Slot(index=0, num_threads=1)
        handle = launcher.start(WorkerJob(run_dir=Path(folder), slot=slot, args=PROBE_ARGS))
        try:
            exit_code = _wait(handle, timeout_s)
        finally:
            handle.stop()
        last_line = handle.log_tail(1)
        has_failed = exit_code == SINGULARITY_FAILED and last_line.startswith(SINGULARITY_ERROR)
        if exit_code in CANNOT_RUN or has_failed:
            raise LauncherError(f"the worker cannot be run: {last_line}")
        return parse_capabilities(handle.log_tail(_PROBE_LINES)) if exit_code == 0 else frozenset()


def _wait(handle: Handle, timeout_s: float) -> int | None:
    deadline = time.monotonic() + timeout_s
    while (exit_code := handle.poll()) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return exit_code


def parse_capabilities(output: str) -> frozenset[str]:
    """Find the JSON object with a list `capabilities` in a worker's output."""
    for line in reversed(output.splitlines()):
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        names = answer.get("capabilities") if isinstance(answer, dict) else None
        if isinstance(names, list):
            return frozenset(name for name in names if isinstance(name, str))
    return frozenset()
