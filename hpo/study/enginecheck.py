"""What `rml-study doctor` says of containers: the engine, its image, SELinux, Podman."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import HpoError
from hpo.study.finding import Finding

if TYPE_CHECKING:
    from docker import DockerClient

SELINUX = Path("/sys/fs/selinux/enforce")
READABLE = ("container_file_t", "svirt_sandbox_file_t")  # types that containers may read and write


def check_engine(image: str, folders: Sequence[Path], *, has_gpus: bool) -> Iterator[Finding]:
    """Yield a line on each.

    Args:
        image: of the workers.
        folders: what containers will be given of this machine.
        has_gpus: whether there are any that containers would need.
    """
    from hpo.launchers.container import ENGINE_ERRORS
    from hpo.launchers.engine import connect, engine_host, image_id

    try:
        client = connect()
    except HpoError as error:
        yield Finding("engine", "WARN", f"{error}; local workers need none")
        if shutil.which("podman") is not None:
            yield Finding("podman", "WARN", _podman_remedy())
        return
    try:
        info = client.info()
        is_podman = _is_podman(client)
        has_no_runtime = has_gpus and "nvidia" not in (info.get("Runtimes") or {})
        remedy = ", without NVIDIA's runtime: install the NVIDIA Container Toolkit"
        yield Finding(
            "engine",
            "WARN" if has_no_runtime else "OK",
            f"{'Podman' if is_podman else 'Docker'} {info.get('ServerVersion', '?')}"
            + ("" if engine_host().startswith("unix://") else f" at {engine_host()}")
            + (remedy if has_no_runtime else ""),
        )
        if is_podman:
            yield Finding(
                "podman",
                "WARN",
                "it answers in Docker's place, and trials are not tested with it; if they fail, "
                "use Docker, --singularity-image or --launcher local",
            )
        yield from _check_selinux(info, folders)
        found = image_id(client, image).removeprefix("sha256:")[:12]
        yield Finding("image", "OK", f"{image} ({found})")
    except HpoError as error:
        yield Finding("image", "WARN", f"{error}; local workers need none")
    except ENGINE_ERRORS as error:
        yield Finding("engine", "WARN", f"does not answer ({error}); restart it")
    finally:
        client.close()


def _is_podman(client: DockerClient) -> bool:
    parts = client.version().get("Components") or []
    return any("podman" in str(part.get("Name", "")).lower() for part in parts)


def _podman_remedy() -> str:
    socket = f"/run/user/{os.getuid()}/podman/podman.sock"
    start = "systemctl --user start podman.socket"
    if os.getuid() == 0:
        socket, start = "/run/podman/podman.sock", "systemctl start podman.socket"
    return (
        "is here and can answer in Docker's place, though trials are not tested with it: "
        f"`{start}`, then DOCKER_HOST=unix://{socket}"
    )


def _check_selinux(info: Mapping[str, Any], folders: Sequence[Path]) -> Iterator[Finding]:
    try:
        is_enforcing = SELINUX.read_text().strip() == "1"
    except OSError:
        return
    if not is_enforcing:
        return
    if not any("selinux" in option for option in info.get("SecurityOptions") or []):
        yield Finding("selinux", "OK", "enforcing, but this engine does not confine containers")
        return
    closed = [folder for folder in folders if not _is_open(folder)]
    if not closed:
        yield Finding("selinux", "OK", "enforcing; containers may read the data and the output")
        return
    names = shlex.join(map(str, closed))
    yield Finding(
        "selinux",
        "WARN",
        f"enforcing: containers are refused these folders until `chcon -Rt {READABLE[0]} {names}`",
    )


def _is_open(folder: Path) -> bool:
    context = b""
    with contextlib.suppress(OSError):
        context = os.getxattr(folder, "security.selinux")
    return any(name.encode() in context for name in READABLE)
