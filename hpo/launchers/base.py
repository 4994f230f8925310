"""The whole contract of a launcher: what the driver hands over, and what it gets back.

A new launcher is one module with a class of this shape and one line in `LAUNCHERS`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Protocol

from hpo.errors import EndingError, LauncherError
from hpo.launchers.image import DEFAULT_IMAGE
from hpo.launchers.stop_times import STOP_GRACE_S
from trainer import rundir

CONFIG_ARGS = (f"--config={rundir.CONFIG}",)

_MOUNT_NAME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A folder that workers may read and never write.

    Attributes:
        name: what it is called inside a container.
        path: where it is here.
        parts: the folders in it that containers get; all that is in it if none are named.
        for_tests: only a job that `sees_tests` gets it.
    """

    name: str
    path: Path
    parts: tuple[PurePosixPath, ...] = ()
    for_tests: bool = False

    def folders(self) -> dict[PurePosixPath, Path]:
        """Return what a container gets of it: relative path -> folder here."""
        parts = self.parts or (PurePosixPath(),)
        return {part: (self.path / part).absolute() for part in parts}

    def check(self) -> None:
        """Check that all of it is there.

        Raises:
            LauncherError: it is not.
        """
        for folder in self.folders().values():
            if not folder.is_dir():
                raise LauncherError(f"cannot mount {str(folder)!r}: no such folder")

    def __post_init__(self) -> None:
        # the name becomes a path inside containers, so it is ours to choose, never the user's
        assert _MOUNT_NAME.fullmatch(self.name), self.name


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What one worker gets of this machine.

    No GPUs means that it must not see any; no cores that it may run on all of the driver's.
    """

    index: int
    gpu_uuids: tuple[str, ...] = ()
    num_threads: int = 1
    cores: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WorkerJob:
    """One start of a worker, in the only folder that it may write.

    With `sees_tests`, it gets the test images, and nothing that a training may read later.
    """

    run_dir: Path
    slot: Slot
    num_procs: int = 1
    args: tuple[str, ...] = CONFIG_ARGS
    sees_tests: bool = False


class Handle(Protocol):
    """A worker that was started."""

    def poll(self) -> int | None:
        """Return the exit code once it has ended, 128+n if signal n ended it."""
        ...

    def stop(self, grace_s: float = STOP_GRACE_S, *, keep_state: bool = False) -> None:
        """Ask it to end, end it after `grace_s`, and return when it and its children are gone.

        With `keep_state`, somebody will go on with what it does: it is asked to write what it
        has, if that takes asking.
        """
        ...

    @property
    def oom_killed(self) -> bool:
        """Say whether the kernel ended it for want of (host) memory."""
        ...

    def log_tail(self, num_lines: int = 20) -> str:
        """Return the last lines of what it printed, fit for a terminal."""
        ...


class Launcher(Protocol):
    """Starts workers; safe to use from several threads at once."""

    name: str
    image_id: str | None  # digest of the workers' container image; None without one

    def worker_path(self, mount: Mount, relative: PurePosixPath | str = "") -> str:
        """Return a path below a mount as the worker sees it."""
        ...

    def capabilities(self) -> frozenset[str]:
        """Return what the worker says it can do beyond the contract; empty if it doesn't know."""
        ...

    def start(self, job: WorkerJob) -> Handle:
        """Start a worker, or raise LauncherError with the remedy."""
        ...

    def describe(self) -> str:
        """Return one line for the table of settings."""
        ...

    def limits(self) -> str:
        """Return what each worker may take at most, for the table of settings."""
        ...

    def sweep(self) -> int:
        """End what dead drivers of the same database, host and user left; say how many."""
        ...

    def close(self) -> None:
        """Stop and remove everything that was started here and still lives."""
        ...


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """What the launchers are built from; each takes the part that concerns it."""

    worker: tuple[str, ...] | None = None  # local: None runs our own engine
    plain: bool = False  # the worker knows the contract only, so it is not asked
    warm: bool = True  # keep a process or container for the slot's next run, where it can
    mounts: tuple[Mount, ...] = ()
    # containers: a folder of decoded images that they share and write; local workers use the
    # host's own
    cache: Path | None = None
    # containers: where the folders of warm ones are made, on the file system of the runs' own;
    # without it each run gets a container
    pools: Path | None = None
    warn: Callable[[str], None] = lambda text: None  # takes a line for the user
    stopping: threading.Event = field(default_factory=threading.Event)  # set to stop
    image: str = DEFAULT_IMAGE
    singularity_image: str | None = None  # a file, or a folder with a root file system
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cap_add: tuple[str, ...] = ()
    shm_size: str = "1g"  # the engine's own default, 64 MB, is too small for data loaders
    tmp_size: str = "4g"  # /tmp: home folder and compile caches
    memory: str | None = None  # None is a share of the machine's: see num_slots
    max_pids: int = 4096
    num_slots: int = 1  # workers at a time

    def seen_by(self, job: WorkerJob) -> list[Mount]:
        """Return the mounts that a job gets."""
        return [mount for mount in self.mounts if job.sees_tests or not mount.for_tests]

    def cache_of(self, job: WorkerJob) -> Path | None:
        """Return the cache that a job shares with others: decoded test images are not for them."""
        return None if job.sees_tests else self.cache


def stop_all(handles: Sequence[Handle]) -> None:
    """Stop workers at the same time, so that eight of them cost one grace period."""
    if handles:
        with ThreadPoolExecutor(len(handles), thread_name_prefix="stop") as pool:
            list(pool.map(lambda handle: handle.stop(), handles))


def closed_error() -> EndingError:
    """Return the error of starting a worker while the search is being stopped."""
    return EndingError("no worker is started any more: the search is ending")


def worker_environment(slot: Slot, num_procs: int = 1) -> dict[str, str]:
    """Return the variables that keep a worker, and each of its processes, inside its slot."""
    threads = str(max(1, slot.num_threads // num_procs))
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "CUDA_VISIBLE_DEVICES": ",".join(slot.gpu_uuids),
        "PYTHONUNBUFFERED": "1",  # else what a killed worker printed last is lost
    }


def with_mpirun(command: tuple[str, ...], num_procs: int) -> tuple[str, ...]:
    """Prefix a command as the contract does for several processes."""
    return command if num_procs == 1 else ("mpirun", "-np", str(num_procs), *command)
