"""Runs workers as processes of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from hpo.errors import LauncherError
from hpo.launchers import guard
from hpo.launchers.base import (
    STOP_GRACE_S,
    LaunchSettings,
    Mount,
    WorkerJob,
    closed_error,
    stop_all,
    with_mpirun,
    worker_environment,
)
from hpo.launchers.log import open_log, read_tail
from hpo.launchers.probe import ask_capabilities

# -P: the worker's folder is its current one and must not come first on the import path
DEFAULT_WORKER = (sys.executable, "-P", "-m", "trainer.cli")
_KILL_TIMEOUT_S = 5.0
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


class LocalHandle:
    """A worker process, leader of its own session."""

    def __init__(self, process: subprocess.Popen[bytes], run_dir: Path) -> None:
        self._process = process
        self._run_dir = run_dir
        self._lock = threading.RLock()
        self._exit_code: int | None = None
        self._stopped = False
        self._oom_kills_before = _count_oom_kills()
        self._oom_killed = False

    def poll(self) -> int | None:
        """Return the exit code once it has ended."""
        with self._lock:
            if self._exit_code is None and self._process.poll() is not None:
                self._finish()
            return self._exit_code

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Send SIGTERM to the process group, and SIGKILL to the whole session after `grace_s`."""
        with self._lock:
            if self.poll() is not None:
                return
            self._stopped = True
            _signal_group(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                _signal_group(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._finish()

    @property
    def oom_killed(self) -> bool:
        """Say whether the kernel ended it for want of memory."""
        return self._oom_killed

    def log_tail(self, num_lines: int = 20) -> str:
        """Return the last lines of what it printed."""
        return read_tail(self._run_dir, num_lines)

    def _finish(self) -> None:
        # what a dead worker leaves running would hold on to its GPU
        _kill_session(self._process.pid)
        code = self._process.returncode
        self._exit_code = code if code >= 0 else 128 - code
        if self._exit_code == 128 + signal.SIGKILL and not self._stopped:
            self._oom_killed = _count_oom_kills() > self._oom_kills_before


class LocalLauncher:
    """Starts each worker in a session of its own, by an argument list, without a shell."""

    name = "local"
    image_id: str | None = None

    def __init__(self, settings: LaunchSettings) -> None:
        self._worker = _resolve(settings.worker) if settings.worker else DEFAULT_WORKER
        self._shown = settings.worker or DEFAULT_WORKER
        self._token = uuid.uuid4().hex
        self._guard: subprocess.Popen[bytes] | None = None
        self._handles: list[LocalHandle] = []
        self._closed = False
        self._lock = threading.Lock()
        self._capabilities: frozenset[str] | None = None
        self._capabilities_lock = threading.Lock()

    def worker_path(self, mount: Mount, relative: PurePosixPath | str = "") -> str:
        """Return the host's own path."""
        return str(mount.path.absolute() / relative)

    def capabilities(self) -> frozenset[str]:
        """Ask the worker once."""
        with self._capabilities_lock:
            if self._capabilities is None:
                self._capabilities = ask_capabilities(self)
            return self._capabilities

    def start(self, job: WorkerJob) -> LocalHandle:
        """Start a worker whose output goes to the run folder's log."""
        command = with_mpirun((*self._worker, *job.args), job.num_procs)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(LAUNCHED_BY)
        }
        environment |= worker_environment(job.slot, job.num_procs) | {guard.MARKER: self._token}
        with self._lock, open_log(job.run_dir) as log:
            if self._closed:
                raise closed_error()
            self._start_guard()
            try:
                process = _spawn(command, job.run_dir, environment, log)
            except OSError as error:
                raise LauncherError(_start_message(command, error)) from error
            handle = LocalHandle(process, job.run_dir)
            self._handles = [other for other in self._handles if other.poll() is None]
            self._handles.append(handle)
        return handle

    def describe(self) -> str:
        """Return the command."""
        return f"local processes: {subprocess.list2cmdline(self._shown)}"

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
            [sys.executable, "-I", "-S", guard.__file__, self._token],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )


def _spawn(
    command: tuple[str, ...], run_dir: Path, environment: dict[str, str], log: BinaryIO
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=run_dir,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _resolve(worker: tuple[str, ...]) -> tuple[str, ...]:
    """Make a command independent of the current folder, since workers run in another.

    `./engine` and `python engine.py` are meant from where the user typed them.
    """
    program = shutil.which(worker[0])
    if program is None:
        raise LauncherError(
            f"--worker: command not found or not executable: {worker[0]!r}; "
            "give a path or a command on the PATH"
        )
    files = (str(Path(word).absolute()) if Path(word).is_file() else word for word in worker[1:])
    return (str(Path(program).absolute()), *files)


def _start_message(command: tuple[str, ...], error: OSError) -> str:
    if command[0] == "mpirun" and isinstance(error, FileNotFoundError):
        return "--num_procs above 1 needs `mpirun` on the PATH; install an MPI or use 1"
    return f"cannot start the worker {command[0]!r}: {error.strerror}; see --worker"


def _signal_group(leader: int, number: signal.Signals) -> None:
    try:
        os.killpg(leader, number)
    except OSError:  # the group is gone already (macOS says so with PermissionError)
        return


def _kill_session(leader: int) -> None:
    """Kill what is left of a session: mpirun, for one, gives each rank a group of its own."""
    _signal_group(leader, signal.SIGKILL)
    deadline = time.monotonic() + _KILL_TIMEOUT_S
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
