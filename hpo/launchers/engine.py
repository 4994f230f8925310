"""Finds a Docker engine and its images, and says what to do where that fails."""

from __future__ import annotations

import os
import posixpath
import socket

import docker
from docker.errors import APIError, ImageNotFound

from hpo.errors import LauncherError
from hpo.launchers.container import ENGINE_ERRORS
from hpo.launchers.image import DEFAULT_IMAGE
from hpo.launchers.inside import MOUNT_ROOT, WORK_DIR

DEFAULT_HOST = "unix:///var/run/docker.sock"
MAX_VOLUMES = 16
# Where nothing of an image's may be: ours, and the kernel's; the working folder itself may.
OURS = (str(MOUNT_ROOT), "/proc", "/sys", "/dev", "/tmp", WORK_DIR)
_ENGINE_TIMEOUT_S = 60
_MAX_CONNECTIONS = 256  # each container holds one or two for its log and its end


def engine_host() -> str:
    """Return the engine's address."""
    return os.environ.get("DOCKER_HOST", DEFAULT_HOST)


def connect() -> docker.DockerClient:
    """Connect to the engine of DOCKER_HOST, or raise LauncherError with the remedy."""
    host = engine_host()
    try:
        if host.startswith("unix://"):
            # the SDK leaves its socket open when nobody answers, so ask first
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(host.removeprefix("unix://"))
        return docker.from_env(timeout=_ENGINE_TIMEOUT_S, max_pool_size=_MAX_CONNECTIONS)
    except PermissionError as error:
        raise LauncherError(
            f"the Docker engine at {host} does not let you in: "
            "ask to be added to the group `docker`"
        ) from error
    except ENGINE_ERRORS as error:
        raise LauncherError(
            f"no Docker engine answers at {host}: "
            "start it (`sudo systemctl start docker`) or set DOCKER_HOST"
        ) from error


def image_id(client: docker.DockerClient, image: str) -> str:
    """Return the digest of an image, or raise LauncherError with the remedy."""
    try:
        return str(client.images.get(image).id)
    except ImageNotFound as error:
        raise _missing_image(image) from error
    except ENGINE_ERRORS as error:
        if "no such image" in _explain(error).lower():  # some engines answer 500, not 404
            raise _missing_image(image) from error
        raise LauncherError(
            f"Docker does not know the image {image!r}: {_explain(error)}"
        ) from error


def declared_volumes(client: docker.DockerClient, image: str) -> tuple[str, ...]:
    """Return the folders that an image declares as volumes.

    The engine would give each a folder on its own disk, without a bound.

    Raises:
        LauncherError: there are many, or one is where we mount something ourselves.
    """
    declared = client.images.get(image).attrs["Config"].get("Volumes") or {}
    paths = sorted({posixpath.normpath("/" + path.lstrip("/")) for path in declared})
    if len(paths) > MAX_VOLUMES:
        raise LauncherError(f"image {image!r} declares {len(paths)} volumes; more than we mount")
    for path in paths:
        is_ours = path == "/" or any(path.startswith(f"{folder}/") for folder in OURS)
        if is_ours or path in OURS[:4]:
            raise LauncherError(
                f"image {image!r} declares the volume {path[:200]!r}, where workers get folders "
                "of ours: build it without that VOLUME"
            )
    return tuple(path for path in paths if path != "/tmp")


def start_error(image: str, error: Exception) -> LauncherError:
    """Return what to tell the user of a container of `image` that could not be started."""
    text = _explain(error)
    if "could not select device driver" in text:
        return LauncherError(
            "Docker has no NVIDIA runtime, so containers get no GPU: install the NVIDIA "
            "Container Toolkit, or use --launcher local, or --no-gpu"
        )
    if "bind source path does not exist" in text or "does not exist on the host" in text:
        return LauncherError(
            f"the Docker engine at {engine_host()} does not see this machine's folders "
            f"({text}): it runs on another machine, or this is a container. Run rml-optimize "
            "where the engine runs, or use --launcher local"
        )
    if "executable file not found" in text or "no such file or directory: unknown" in text:
        return LauncherError(f"image {image!r} has no such command: {text}")
    if "no such image" in text.lower():
        return _missing_image(image)
    return LauncherError(f"Docker could not start a container of {image!r}: {text}")


def _missing_image(image: str) -> LauncherError:
    if image == DEFAULT_IMAGE:
        remedy = f"build it with `docker build -t {image} .` in the source folder"
    else:
        remedy = f"`docker pull {image}` first, or build it with `docker build -t {image} .`"
    return LauncherError(f"image {image!r} is not present: {remedy}")


def _explain(error: Exception) -> str:
    explanation = error.explanation if isinstance(error, APIError) else None
    return " ".join(str(explanation or error).split())
