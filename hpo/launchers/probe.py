"""Asks a worker what it can do beyond the contract."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpo.errors import LauncherError
from hpo.launchers.base import Launcher, LaunchSettings, Slot, WorkerJob, closed_error
from hpo.launchers.log import shortened
from hpo.worker_files import remove
from trainer.bounded import BoundError, parse_json

PROBE_ARGS = ("--capabilities",)
WAIT_LIMIT_S = 120.0  # a first start from a cold network disk, an image that is unpacked
WORD_AFTER_S = 10.0  # then the user is told what the search waits for
DELAYS_S = (0.0, 0.5, 2.0, 5.0, 10.0)  # before each time that it is asked
CANNOT_RUN = (126, 127)  # of shells, env and docker-init: not executable, not found
LOST = 125  # of docker, env, timeout and the like: they have failed, not what they ran
LAST_SIGNAL = 64
SINGULARITY_FAILED, SINGULARITY_ERROR = 255, "FATAL: "  # its own exit code, and its last line
REMEDY = "if it is an engine that does not know the question, add --plain-worker"
_PROBE_LINES = 200  # warnings may surround the answer


class CachedCapabilities:
    """What a launcher's worker can do; safe to ask from several threads at once."""

    def __init__(self, launcher: Launcher, settings: LaunchSettings, *, is_own: bool) -> None:
        """Ask later; `is_own` says that the worker is this package's, which knows the answer."""
        self._launcher = launcher
        self._settings = settings
        self._is_own = is_own
        self._answer: frozenset[str] | None = None
        self._lock = threading.Lock()

    def answer(self) -> frozenset[str]:
        """Ask the worker at the first call.

        Raises:
            LauncherError: it cannot be started, or has not said either way.
        """
        with self._lock:
            if self._settings.plain:
                return frozenset()
            if self._answer is None:
                self._answer = ask_capabilities(
                    self._launcher, self._settings, is_own=self._is_own
                )
            return self._answer


def ask_capabilities(
    launcher: Launcher, settings: LaunchSettings, *, is_own: bool = False
) -> frozenset[str]:
    """Start the worker with `--capabilities` and read its JSON answer.

    An engine that ends by itself with an error, or prints its help, does not know the option: it
    gets the contract's keys only. Nothing else means that: a worker that is killed, or whose
    answer is cut off, is asked again, and one that says nothing is waited for.
    """
    deadline = time.monotonic() + WAIT_LIMIT_S
    unclear = ""
    for delay_s in DELAYS_S:
        if delay_s:
            settings.warn(f"asked what it can do, the worker {unclear}; it is asked again")
        if settings.stopping.wait(delay_s):
            raise closed_error()
        ended = _ask(launcher, settings, deadline)
        names = parse_capabilities(ended.output) if ended.exit_code == 0 else None
        if names is not None:
            return names
        unclear = ended.unclear
        if unclear:
            continue
        if is_own:
            raise LauncherError(f"our own worker cannot run here: {ended.last_line}")
        settings.warn(
            f"this worker knows the contract only: asked what it can do, it ended with exit code "
            f"{ended.exit_code} ({ended.last_line or 'and said nothing'})"
        )
        return frozenset()
    raise LauncherError(
        f"asked {len(DELAYS_S)} times what it can do, the worker {unclear}; {REMEDY}"
    )


@dataclass(frozen=True)
class _Ended:
    exit_code: int
    was_killed: bool
    output: str

    @property
    def last_line(self) -> str:
        return shortened(self.output.rpartition("\n")[2])

    @property
    def unclear(self) -> str:
        """What makes this neither a yes nor a no; empty if it is a no."""
        code = self.exit_code
        if self.was_killed:
            return "was killed for want of memory"
        if 128 < code <= 128 + LAST_SIGNAL:
            return f"was ended by signal {code - 128}"
        if code == LOST:
            return f"was lost: {self.last_line}"
        if code == 0 and (not self.output or "{" in self.output):
            return "gave half an answer"
        return ""


def _ask(launcher: Launcher, settings: LaunchSettings, deadline: float) -> _Ended:
    with _scratch(settings) as folder:
        slot = Slot(index=0, num_threads=1)
        handle = launcher.start(WorkerJob(run_dir=folder, slot=slot, args=PROBE_ARGS))
        word_at = time.monotonic() + WORD_AFTER_S
        try:
            while (code := handle.poll()) is None and time.monotonic() < deadline:
                if time.monotonic() > word_at:
                    word_at = deadline
                    settings.warn(
                        "the worker has not said yet what it can do; it gets up to "
                        f"{WAIT_LIMIT_S:.0f} s ({REMEDY})"
                    )
                if settings.stopping.wait(0.02):
                    raise closed_error()
        finally:
            handle.stop()
        if code is None:
            raise LauncherError(
                f"the worker has not said within {WAIT_LIMIT_S:.0f} s what it can do; {REMEDY}"
            )
        output = handle.log_tail(_PROBE_LINES)
        lines = output.splitlines() or [""]
        has_failed = code == SINGULARITY_FAILED and lines[-1].startswith(SINGULARITY_ERROR)
        if code in CANNOT_RUN or has_failed:
            raise LauncherError(f"the worker cannot be run: {shortened(lines[-1])}")
        return _Ended(code, handle.oom_killed, output)


@contextlib.contextmanager
def _scratch(settings: LaunchSettings) -> Iterator[Path]:
    """Make a folder for a worker, and remove it, whatever has become of it."""
    folder = Path(tempfile.mkdtemp(prefix="rml-probe-"))
    try:
        yield folder
    finally:
        if left := remove(folder, stopping=settings.stopping):
            settings.warn(left)


def parse_capabilities(output: str) -> frozenset[str] | None:
    """Find the JSON object with a list `capabilities` in a worker's output; None without one."""
    for line in reversed(output.splitlines()):
        try:
            answer = parse_json(line)
        except BoundError:
            continue
        names = answer.get("capabilities") if isinstance(answer, dict) else None
        if isinstance(names, list):
            return frozenset(name for name in names if isinstance(name, str))
    return None
