"""Launchers: how a worker is started, watched and stopped.

The seam is `base.py`. Importing this package loads neither torch nor the Docker SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hpo.errors import LauncherError
from hpo.launchers.base import Handle, Launcher, LaunchSettings, Mount, Slot, WorkerJob
from hpo.launchers.image import DEFAULT_IMAGE
from hpo.launchers.local import LocalLauncher
from hpo.launchers.singularity import SingularityLauncher

__all__ = [
    "AUTO",
    "DEFAULT_IMAGE",
    "KINDS",
    "LAUNCHERS",
    "Handle",
    "LaunchSettings",
    "Launcher",
    "Mount",
    "Slot",
    "WorkerJob",
    "choose_launcher",
]


def _docker(settings: LaunchSettings) -> Launcher:
    from hpo.launchers.docker import DockerLauncher  # the SDK costs 0.15 s to import

    return DockerLauncher(settings)


LAUNCHERS: dict[str, Callable[[LaunchSettings], Launcher]] = {
    "local": LocalLauncher,
    "docker": _docker,
    "singularity": SingularityLauncher,
}

AUTO = "auto"
KINDS = (AUTO, *LAUNCHERS)  # what `--launcher` takes
CONTAINERS = ("docker", "singularity")


def choose_launcher(
    kind: str,
    *,
    worker: tuple[str, ...] | None,
    image: str,
    mounts: Sequence[Mount],
    **options: Any,
) -> tuple[Launcher, str]:
    """Build a launcher and say which was taken and why.

    `auto` takes Singularity where an image for it is named, Docker where an engine answers and
    has the image, else local processes; a worker command always means local ones. `options` are
    further fields of LaunchSettings (labels, cap_add, shm_size, memory, …).
    """
    settings = LaunchSettings(worker=worker, image=image, mounts=tuple(mounts), **options)
    has_image = settings.singularity_image is not None
    if worker is not None and (has_image or kind in CONTAINERS):
        named = "--singularity-image" if has_image else f"--launcher {kind}"
        raise LauncherError(
            f"--worker names a command for local processes and {named} runs the image's own; "
            "drop one of the two"
        )
    if has_image and kind not in (AUTO, "singularity"):
        raise LauncherError(
            f"--singularity-image has no effect with --launcher {kind}; drop one of the two"
        )
    if kind == AUTO and has_image:
        return LAUNCHERS["singularity"](settings), "singularity, because an image is named"
    if kind == AUTO and worker is not None:
        return LAUNCHERS["local"](settings), "local, because --worker names a command"
    if kind != AUTO:
        try:
            return LAUNCHERS[kind](settings), f"{kind}, as asked"
        except LauncherError as error:
            if kind == "local":
                raise
            raise LauncherError(f"{error}, or use --launcher local") from error
    try:
        launcher = LAUNCHERS["docker"](settings)
    except LauncherError as error:
        return LAUNCHERS["local"](settings), f"local, because {error}"
    return launcher, "docker, because an engine answers and has the image"
