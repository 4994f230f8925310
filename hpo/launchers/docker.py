"""Runs workers in containers of a Docker engine.

What a container gets: the run folder and the study's cache of decoded images (the only things it
can write, apart from a tmpfs on /tmp), the mounts (read-only), its slot's GPUs, the user's own
uid. No network, no capabilities, no new privileges, a read-only root; the tests look from inside.

A worker that can carry out several runs gets folders for them beforehand (see `premounted`) and
the slot's next trial; any other is started in a container of its own for each.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from docker.types import DeviceRequest, LogConfig, Ulimit
from docker.types import Mount as BindMount

from hpo.launchers.base import (
    Handle,
    LaunchSettings,
    Mount,
    Slot,
    WorkerJob,
    closed_error,
    stop_all,
    with_mpirun,
)
from hpo.launchers.container import ENGINE_ERRORS, DockerHandle, remove
from hpo.launchers.engine import (
    connect,
    declared_volumes,
    engine_host,
    image_id,
    start_error,
)
from hpo.launchers.image import DEFAULT_IMAGE
from hpo.launchers.inside import (
    CACHE_DIR,
    RUNS_DIR,
    WORK_DIR,
    WORKER,
    container_environment,
    mounted_path,
)
from hpo.launchers.log import MAX_LOG_BYTES, open_log
from hpo.launchers.premounted import NoFolderLeftError, PremountedFolders, remove_dead
from hpo.launchers.probe import CachedCapabilities
from hpo.launchers.users import (
    container_user,
    make_cache,
    owner_of,
    supplementary_groups,
)
from hpo.launchers.warm import SERVE, WarmPool, WarmWorker, is_run
from hpo.owner import DATABASE, SESSION, is_dead, own_filter

SHARE_OF_MEMORY = 0.9  # the rest is for the driver, and what else runs
MIN_MEMORY_BYTES = 2**30  # less holds no worker at all


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What differs from one container to the next."""

    command: tuple[str, ...]
    folders: Mapping[str, Path]  # by their paths inside, to be written
    working_dir: str
    user: str
    serves: bool = False


class DockerLauncher:
    """Starts workers in containers, and removes these afterwards."""

    name = "docker"

    def __init__(self, settings: LaunchSettings) -> None:
        self._settings = settings
        for mount in settings.mounts:
            mount.check()
        self._client = connect()
        try:
            self.image_id: str | None = image_id(self._client, settings.image)
            info = self._client.info()
            self._volumes = declared_volumes(self._client, settings.image)
        except BaseException:
            self._client.close()
            raise
        self._engine = str(info.get("ServerVersion", "?"))
        self._where = engine_host()
        self._memory = _memory_share(settings, info)
        if self._volumes:
            settings.warn(
                f"the image declares volumes ({', '.join(self._volumes)}): each is an empty "
                f"folder in memory, of {settings.tmp_size}"
            )
        self._rootless = "name=rootless" in (info.get("SecurityOptions") or [])
        # only an engine on this very kernel follows a folder that is renamed here
        is_here = self._where.startswith("unix://")
        can_rename = is_here and info.get("KernelVersion") == os.uname().release
        is_warm = settings.warm and settings.pools is not None and can_rename
        self._pool = WarmPool() if is_warm else None
        self._handles: list[DockerHandle] = []
        self._closed = False
        self._lock = threading.Lock()
        self._asked = CachedCapabilities(self, settings, is_own=settings.image == DEFAULT_IMAGE)

    def worker_path(self, mount: Mount, relative: PurePosixPath | str = "") -> str:
        """Return the path inside the container."""
        return mounted_path(mount, relative)

    def capabilities(self) -> frozenset[str]:
        """Ask the worker once."""
        return self._asked.answer()

    def start(self, job: WorkerJob) -> Handle:
        """Start a container on the run folder, or let the slot's warm one go on with it."""
        user = container_user(job.run_dir, rootless=self._rootless)
        if self._settings.cache is not None:
            make_cache(self._settings.cache, user, rootless=self._rootless)
        if self._pool is not None and is_run(job) and SERVE in self.capabilities():
            try:
                return self._pool.start(job, lambda: self._serve(job, user))
            except NoFolderLeftError as error:
                self._settings.warn(
                    f"{error}: its container is removed, {job.run_dir.parent.name} gets another"
                )
        start = _Start(
            command=with_mpirun((*WORKER, *job.args), job.num_procs),
            folders={WORK_DIR: job.run_dir},
            working_dir=WORK_DIR,
            user=user,
        )
        return self._start(job, start)

    def _serve(self, job: WorkerJob, user: str) -> WarmWorker:
        """Start a container that waits for runs; what it prints before goes to the first log."""
        assert self._settings.pools is not None
        owner = owner_of(user, rootless=self._rootless)
        with open_log(job.run_dir) as log:
            if owner is not None:  # the worker writes it too
                os.fchown(log.fileno(), *owner)
        premounted = PremountedFolders(self._settings.pools, RUNS_DIR, owner)
        start = _Start(
            command=(*WORKER, SERVE),
            folders=premounted.mounts(),
            working_dir="/",
            user=user,
            serves=True,
        )
        try:
            return WarmWorker(self._start(job, start), premounted)
        except BaseException:
            premounted.close()
            raise

    def _start(self, job: WorkerJob, start: _Start) -> DockerHandle:
        try:
            container = self._client.containers.create(**self._create_options(job, start))
        except ENGINE_ERRORS as error:
            raise start_error(self._settings.image, error) from error
        handle = DockerHandle(self._client, container, job.run_dir, serves=start.serves)
        try:
            handle.start()
        except ENGINE_ERRORS as error:
            remove(container)  # what could not start stays, as "created"
            raise start_error(self._settings.image, error) from error
        with self._lock:
            self._handles = [other for other in self._handles if other.poll() is None]
            self._handles.append(handle)
            closed = self._closed
        if closed:  # while this one was starting
            handle.stop()
            handle.close()
            raise closed_error()
        return handle

    def describe(self) -> str:
        """Return image and engine."""
        short = str(self.image_id).removeprefix("sha256:")[:12]
        where = "" if self._where.startswith("unix://") else f" at {self._where}"
        return f"containers of {self._settings.image} ({short}), Docker {self._engine}{where}"

    def limits(self) -> str:
        """Return the containers' limits."""
        settings = self._settings
        memory = self._memory or "all of the machine's"
        return (
            f"{memory} memory, {settings.shm_size} of it as shared memory, {settings.tmp_size} as "
            f"/tmp; {settings.max_pids} processes; {MAX_LOG_BYTES >> 20} MiB of log"
        )

    def sweep(self) -> int:
        """Remove the containers that dead drivers of the same database, host and user left."""
        labels = self._settings.labels
        if DATABASE not in labels:
            return 0
        try:
            found = self._client.containers.list(all=True, filters={"label": own_filter(labels)})
            orphans = [c for c in found if is_dead(c.labels.get(SESSION, ""))]
        except ENGINE_ERRORS:  # the next sweep may find it in better health
            return 0
        for container in orphans:
            remove(container)
        if self._settings.pools is not None:
            remove_dead(self._settings.pools)
        return len(orphans)

    def close(self) -> None:
        """Stop and remove all containers of this launcher."""
        with self._lock:
            self._closed = True
            stop_all(self._handles)
            self._handles.clear()
        if self._pool is not None:
            self._pool.close()
        self._remove_unstarted()
        self._client.close()

    def _remove_unstarted(self) -> None:
        """Remove containers that an engine has made and, while restarting, not told us of."""
        if SESSION not in self._settings.labels:
            return
        labels = [f"{name}={value}" for name, value in self._settings.labels.items()]
        with contextlib.suppress(*ENGINE_ERRORS):
            filters: dict[str, str | list[str] | bool] = {"label": labels, "status": "created"}
            for container in self._client.containers.list(all=True, filters=filters):
                remove(container)

    def _create_options(self, job: WorkerJob, start: _Start) -> dict[str, Any]:
        settings = self._settings
        binds = [
            BindMount(inside, str(folder.absolute()), type="bind")
            for inside, folder in start.folders.items()
        ]
        binds += [
            BindMount(self.worker_path(mount, part), str(folder), type="bind", read_only=True)
            for mount in settings.seen_by(job)
            for part, folder in mount.folders().items()
        ]
        cache = settings.cache_of(job)
        if cache is not None:
            binds.append(BindMount(CACHE_DIR, str(cache.absolute()), type="bind"))
        in_memory = {"/tmp", *self._volumes} - {*start.folders}
        return {
            "image": self.image_id,  # the tag may move while the search runs
            "command": list(start.command),
            "stdin_open": start.serves,  # until we detach: our end ends what serves
            "working_dir": start.working_dir,
            "mounts": binds,
            "user": start.user,
            "group_add": supplementary_groups(start.user, rootless=self._rootless),
            "environment": container_environment(
                job.slot, job.num_procs, has_cache=cache is not None
            ),
            "labels": dict(settings.labels),
            "cpuset_cpus": ",".join(map(str, job.slot.cores)) or None,
            "device_requests": _device_requests(job.slot),
            "tmpfs": dict.fromkeys(in_memory, _tmpfs_options(start.user, settings.tmp_size)),
            "healthcheck": {"test": ["NONE"]},  # the image's own would run beside the worker
            "read_only": True,
            "network_mode": "none",
            "cap_drop": ["ALL"],
            "cap_add": list(settings.cap_add),
            "security_opt": ["no-new-privileges"],
            "pids_limit": settings.max_pids,
            "shm_size": settings.shm_size,
            "mem_limit": self._memory,
            "memswap_limit": self._memory,  # the same: no swap on top
            "ulimits": [Ulimit(name="core", soft=0, hard=0)],  # no dumps in run folders
            "init": True,  # as process 1 a worker would ignore SIGTERM
            # we follow the output ourselves; the engine's own copy would have no bound
            "log_config": LogConfig(type="none"),
        }


def _memory_share(settings: LaunchSettings, info: Mapping[str, Any]) -> str | None:
    """Return each container's memory: what was asked for, else an equal share of most of it.

    Without a limit, one that needs too much makes the kernel kill any program of the machine.
    """
    total = int(info.get("MemTotal") or 0)
    if settings.memory is not None or not total or not info.get("MemoryLimit", True):
        return settings.memory
    share = int(total * SHARE_OF_MEMORY / settings.num_slots)
    return f"{max(share, MIN_MEMORY_BYTES) >> 20}m"


def _device_requests(slot: Slot) -> list[DeviceRequest]:
    if not slot.gpu_uuids:
        return []
    return [DeviceRequest(device_ids=list(slot.gpu_uuids), capabilities=[["gpu"]])]


def _tmpfs_options(user: str, size: str) -> str:
    uid, gid = user.split(":")
    # exec: compiled kernels are loaded from the cache there; the owner: the engine gives a
    # tmpfs the mode of the image's own folder, which others may not be allowed to write
    return f"rw,exec,nosuid,nodev,size={size},mode=1777,uid={uid},gid={gid}"
