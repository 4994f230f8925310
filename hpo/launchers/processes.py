"""Starts, follows and ends the processes behind a launcher: workers here, or what runs them.

Each is the leader of a session of its own, and a guard process ends them all if the driver dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from hpo.launchers import guard, reaper
from hpo.launchers.base import closed_error, stop_all
from hpo.launchers.log import LogLimit, open_log, read_tail
from hpo.launchers.stop_times import KILL_PROCESS_TIMEOUT_S, STOP_GRACE_S
from hpo.owner import DATABASE, SESSION, is_dead

# What says that a process is one of several. It is said of the driver (`srun -n 4 rml-optimize`):
# a worker that believes it of itself would wait for the others.
LAUNCHED_BY = (
    "SLURM_",
    "OMPI_",
    "PMI_",
    "PMIX_",
    "MPI_",
    "MASTER_",
    "WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
)
HAS_REAPER = sys.platform == "linux"
# Ways to the study's database: a worker, which may be anybody's, has no business there.
SECRETS = ("RML_STORAGE", "PGPASS", "PGSERVICE", "MYSQL_PWD")


class ProcessHandle:
    """A process that is the leader of its own session."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        run_dir: Path,
        *,
        stops_group: bool,
        on_end: Callable[[], None],
    ) -> None:
        self._process = process
        self._run_dir = run_dir
        self._log_limit = LogLimit(run_dir)
        self._stops_group = stops_group
        self._on_end = on_end
        self._lock = threading.RLock()
        self._exit_code: int | None = None
        self._stopped = False
        self._oom_kills_before = _count_oom_kills()
        self._oom_killed = False

    def poll(self) -> int | None:
        """Return the exit code once it has ended."""
        with self._lock:
            if self._exit_code is None:
                self._log_limit.keep()
                if self._process.poll() is not None:
                    self._finish()
            return self._exit_code

    def stop(self, grace_s: float = STOP_GRACE_S, *, keep_state: bool = False) -> None:
        """Send SIGTERM, and SIGKILL to the whole session after `grace_s`."""
        with self._lock:
            if self.poll() is not None:
                return
            self._stopped = True
            if self._stops_group:
                _signal_group(self._process.pid, signal.SIGTERM)
            else:
                self._process.send_signal(reaper.END_WORKER if HAS_REAPER else signal.SIGTERM)
            if not self._has_ended(grace_s):
                if HAS_REAPER:
                    self._process.send_signal(reaper.END_ALL)
                if not HAS_REAPER or not self._has_ended(KILL_PROCESS_TIMEOUT_S):
                    _signal_group(self._process.pid, signal.SIGKILL)
                    # what hangs in the kernel, on a network disk say, is left to it
                    self._has_ended(KILL_PROCESS_TIMEOUT_S)
            self._finish()

    def _has_ended(self, timeout_s: float) -> bool:
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def oom_killed(self) -> bool:
        """Say whether the kernel ended it for want of memory."""
        return self._oom_killed

    def log_tail(self, num_lines: int = 20) -> str:
        """Return the last lines of what it printed."""
        return read_tail(self._run_dir, num_lines)

    @property
    def pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """Return the ends of its standard input and output, if it was started with pipes."""
        assert self._process.stdin is not None and self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def _finish(self) -> None:
        # what a dead worker leaves running would hold on to its GPU
        _kill_session(self._process.pid)
        self._log_limit.keep(is_last=True)
        self._on_end()
        code = self._process.returncode
        code = -signal.SIGKILL if code is None else code
        self._exit_code = code if code >= 0 else 128 - code
        if self._exit_code == 128 + signal.SIGKILL and not self._stopped:
            self._oom_killed = _count_oom_kills() > self._oom_kills_before


class WorkerProcesses:
    """The processes of one launcher; safe to use from several threads at once."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        owner = "/".join(labels.get(key, "") for key in (DATABASE, SESSION))
        self.marker = {guard.MARKER: f"{owner}/{uuid.uuid4().hex}"}
        self._database = labels.get(DATABASE)
        self._guard: subprocess.Popen[bytes] | None = None
        self._handles: list[ProcessHandle] = []
        self._closed = False
        self._lock = threading.Lock()

    def start(
        self,
        command: tuple[str, ...],
        run_dir: Path,
        environment: Mapping[str, str],
        *,
        cores: tuple[int, ...] = (),
        stops_group: bool = True,
        on_end: Callable[[], None] = lambda: None,
        pipes: bool = False,
    ) -> ProcessHandle:
        """Start a command whose output goes to the run folder's log.

        Args:
            cores: the only ones that it may run on; all of ours if empty.
            stops_group: whether SIGTERM goes to the command's children as well, or to it alone.
            on_end: called once, when the command and its children are gone.
            pipes: connect its standard input and output with us; the log gets errors alone.

        Raises:
            OSError: the command cannot be started.
            LauncherError: the log cannot be written, or `close` was called.
        """
        with self._lock, open_log(run_dir) as log:
            if self._closed:
                raise closed_error()
            self._start_guard()
            with _pinned(cores):
                process = self._spawn(
                    command,
                    dict(environment),
                    cwd=run_dir,
                    stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if pipes else log,
                    stderr=log,
                    start_new_session=True,
                )
            if process.stdin is not None:  # a worker that reads nothing must not stop us
                os.set_blocking(process.stdin.fileno(), False)
            handle = ProcessHandle(process, run_dir, stops_group=stops_group, on_end=on_end)
            self._handles = [other for other in self._handles if other.poll() is None]
            self._handles.append(handle)
        return handle

    def _spawn(
        self, command: tuple[str, ...], environment: dict[str, str], **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a command, by a reaper of its own where there are any."""
        if not HAS_REAPER:
            return subprocess.Popen(command, env=environment | self.marker, **options)
        marker = "=".join(*self.marker.items())
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as status:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", reaper.__file__, str(writer), marker, *command],
                    env=environment,
                    pass_fds=(writer,),
                    **options,
                )
            finally:
                os.close(writer)
            problem = status.read()  # ends when the command runs
        if problem:
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout)):
                pipe.close()
            raise OSError(int(problem), os.strerror(int(problem)), command[0])
        return process

    def sweep(self) -> int:
        """Kill what dead drivers of the same database and user left, whose guard died too."""
        if self._database is None:
            return 0
        orphans = [
            pid
            for pid, marker in guard.marked_processes()
            if marker.startswith(f"{self._database}/") and is_dead(marker.split("/")[1])
        ]
        for pid in orphans:
            with contextlib.suppress(OSError):  # it was faster
                os.kill(pid, signal.SIGKILL)
        return len(orphans)

    def close(self) -> None:
        """Stop all workers, then let the guard go."""
        with self._lock:
            self._closed = True
            stop_all(self._handles)
            self._handles.clear()
            if self._guard is not None:
                self._guard.communicate(b".")
                self._guard = None

    def _start_guard(self) -> None:
        if self._guard is not None:
            return
        # isolated and without site packages: 10 ms, and nothing of the user's can break it
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, self.marker[guard.MARKER]],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=own_environment(),
            start_new_session=True,
        )


@contextlib.contextmanager
def _pinned(cores: tuple[int, ...]) -> Iterator[None]:
    """Pin this thread alone, whose cores the process that it starts inherits."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def own_environment() -> dict[str, str]:
    """Return our environment without passwords and without what says we are one of several."""
    dropped = (*LAUNCHED_BY, *SECRETS)
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def _signal_group(leader: int, number: signal.Signals) -> None:
    try:
        os.killpg(leader, number)
    except OSError:  # the group is gone already (macOS says so with PermissionError)
        return


def _kill_session(leader: int) -> None:
    """Kill what is left of a session: mpirun, for one, gives each rank a group of its own."""
    _signal_group(leader, signal.SIGKILL)
    deadline = time.monotonic() + KILL_PROCESS_TIMEOUT_S
    while (pids := _session_members(leader)) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:  # it was faster
                continue
        time.sleep(0.01)


def _session_members(leader: int) -> list[int]:
    members = []
    for pid, folder in guard.processes():
        try:
            # the name before ")" may hold anything; then: state, parent, group, session
            fields = Path(folder, "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        # nobody may be there to reap a zombie, and it holds nothing any more
        if int(fields[3]) == leader and fields[0] not in "ZX":
            members.append(pid)
    return members


def _count_oom_kills() -> int:
    """Return how many processes the kernel has killed for memory, inside cgroups and without."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
