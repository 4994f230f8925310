"""Launchers: how a worker is started, watched and stopped.

The seam is `base.py`. Importing this package loads neither torch nor the Docker SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from hpo.errors import LauncherError
from hpo.launchers.base import Handle, Launcher, LaunchSettings, Mount, Slot, WorkerJob
from hpo.launchers.image import DEFAULT_IMAGE
from hpo.launchers.local import LocalLauncher

__all__ = [
    "DEFAULT_IMAGE",
    "LAUNCHERS",
    "Handle",
    "LaunchSettings",
    "Launcher",
    "Mount",
    "Slot",
    "WorkerJob",
    "choose_launcher",
]

Kind = Literal["auto", "local", "docker"]


def _docker(settings: LaunchSettings) -> Launcher:
    from hpo.launchers.docker import DockerLauncher  # the SDK costs 0.15 s to import

    return DockerLauncher(settings)


LAUNCHERS: dict[str, Callable[[LaunchSettings], Launcher]] = {
    "local": LocalLauncher,
    "docker": _docker,
}


def choose_launcher(
    kind: Kind,
    *,
    worker: tuple[str, ...] | None,
    image: str,
    mounts: Sequence[Mount],
    **options: Any,
) -> tuple[Launcher, str]:
    """Build a launcher and say which was taken and why.

    `auto` takes Docker where an engine answers and has the image, else local processes; a
    worker command always means local ones. `options` are further fields of LaunchSettings
    (labels, cap_add, shm_size, memory, …).
    """
    settings = LaunchSettings(worker=worker, image=image, mounts=tuple(mounts), **options)
    if kind == "docker" and worker is not None:
        raise LauncherError(
            "--worker names a command for local processes and --launcher docker runs the "
            "image's own; drop one of the two"
        )
    if kind == "local":
        return LAUNCHERS["local"](settings), "local, as asked"
    if worker is not None:
        return LAUNCHERS["local"](settings), "local, because --worker names a command"
    try:
        launcher = LAUNCHERS["docker"](settings)
    except LauncherError as error:
        if kind == "docker":
            raise LauncherError(f"{error}, or use --launcher local") from error
        return LAUNCHERS["local"](settings), f"local, because {error}"
    if kind == "docker":
        return launcher, "docker, as asked"
    return launcher, "docker, because an engine answers and has the image"
