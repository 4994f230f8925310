"""Runs workers as processes of this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

from hpo.errors import LauncherError
from hpo.launchers.base import (
    Handle,
    LaunchSettings,
    Mount,
    WorkerJob,
    with_mpirun,
    worker_environment,
)
from hpo.launchers.log import MAX_LOG_BYTES
from hpo.launchers.probe import CachedCapabilities
from hpo.launchers.processes import ProcessHandle, WorkerProcesses, own_environment
from hpo.launchers.warm import SERVE, WarmPool, WarmWorker, is_run

# -P: the worker's folder is its current one and must not come first on the import path
DEFAULT_WORKER = (sys.executable, "-P", "-m", "trainer.cli")


class LocalLauncher:
    """Starts each worker in a session of its own, by an argument list, without a shell."""

    name = "local"
    image_id: str | None = None

    def __init__(self, settings: LaunchSettings) -> None:
        self._worker = _resolve(settings.worker) if settings.worker else DEFAULT_WORKER
        self._shown = settings.worker or DEFAULT_WORKER
        self._processes = WorkerProcesses(settings.labels)
        self._pool = WarmPool() if settings.warm else None
        self._asked = CachedCapabilities(self, settings, is_own=settings.worker is None)

    def worker_path(self, mount: Mount, relative: PurePosixPath | str = "") -> str:
        """Return the host's own path."""
        return str(mount.path.absolute() / relative)

    def capabilities(self) -> frozenset[str]:
        """Ask the worker once."""
        return self._asked.answer()

    def start(self, job: WorkerJob) -> Handle:
        """Start a worker, or let the slot's warm one go on; the folder's log has its output."""
        if self._pool is not None and is_run(job) and SERVE in self.capabilities():
            return self._pool.start(job, lambda: self._serve(job))
        return self._start(with_mpirun((*self._worker, *job.args), job.num_procs), job)

    def _serve(self, job: WorkerJob) -> WarmWorker:
        return WarmWorker(self._start((*self._worker, SERVE), job, pipes=True))

    def _start(
        self, command: tuple[str, ...], job: WorkerJob, *, pipes: bool = False
    ) -> ProcessHandle:
        environment = own_environment() | worker_environment(job.slot, job.num_procs)
        try:
            return self._processes.start(
                command, job.run_dir, environment, cores=job.slot.cores, pipes=pipes
            )
        except OSError as error:
            raise LauncherError(_start_message(command, error)) from error

    def describe(self) -> str:
        """Return the command."""
        return f"local processes: {subprocess.list2cmdline(self._shown)}"

    def limits(self) -> str:
        """Say that they are ours."""
        return f"those of this user or job; {MAX_LOG_BYTES >> 20} MiB of log"

    def sweep(self) -> int:
        """End what dead drivers left."""
        return self._processes.sweep()

    def close(self) -> None:
        """Stop all workers."""
        self._processes.close()
        if self._pool is not None:
            self._pool.close()


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
