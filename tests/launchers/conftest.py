"""A real Docker engine, a tiny image made of this machine's own files, and the launchers.

The stand-in worker of all launchers runs `worker.sh` of the run folder, so that one test says
in one place what the worker does, in a process and in a container alike.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from docker_engine import (
    DEFAULT_SOCKET,
    answers,
    import_tiny_image,
    private_engine,
    skip_or_fail,
    unpack_tiny_root,
)
from stand_in import SESSION_LABEL, STAND_IN

from hpo.launchers import Launcher, choose_launcher

TINY_IMAGE = f"rml-test/tiny:{os.getpid()}"  # each process of a test run removes its own


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """Give the address of an engine: DOCKER_HOST, the system's, or a private one."""
    host = os.environ.get("DOCKER_HOST")
    if host:
        yield host
    elif answers(DEFAULT_SOCKET):
        yield f"unix://{DEFAULT_SOCKET}"
    elif shutil.which("dockerd") is None:
        skip_or_fail("docker", "no Docker engine answers and dockerd is not installed")
    elif os.geteuid() != 0:
        skip_or_fail("docker", "no Docker engine answers and only root can start dockerd")
    else:
        with private_engine() as host, pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", host)
            yield host


@pytest.fixture(scope="session")
def docker_client(docker_host: str) -> Iterator[docker.DockerClient]:
    """Give a client of our own, to look at the engine from outside the launcher."""
    client = docker.DockerClient(base_url=docker_host, timeout=60)
    yield client
    client.close()


@pytest.fixture(scope="session")
def tiny_image(docker_client: docker.DockerClient) -> Iterator[str]:
    """Import a shell, some programs and the stand-in worker: 1 s, no network."""
    import_tiny_image(docker_client, TINY_IMAGE)
    yield TINY_IMAGE
    docker_client.images.remove(TINY_IMAGE, force=True)


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker), "singularity"])
def kind(request: pytest.FixtureRequest) -> str:
    """Name the launcher under test."""
    return str(request.param)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """Write the stand-in worker as a program of this machine."""
    path = tmp_path / "stand-in"
    path.write_text(STAND_IN)
    path.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def sandbox_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the tiny image into a folder, which Singularity takes for an image."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rmn", "true"]).returncode:
        pytest.skip("no private namespaces here (unshare -rmn)")
    folder = tmp_path_factory.mktemp("image: tiny, odd")
    unpack_tiny_root(folder)
    return folder


@pytest.fixture(scope="session")
def apptainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write programs named `apptainer` and `singularity` into a folder for the PATH."""
    folder = tmp_path_factory.mktemp("bin")
    text = Path(__file__).with_name("fake_apptainer.py").read_text()
    for name in ("apptainer", "singularity"):
        program = folder / name
        program.write_text(f"#!{sys.executable} -IS\n{text}")
        program.chmod(0o755)
    return folder


@pytest.fixture
def make_launcher(request: pytest.FixtureRequest, stand_in: Path) -> Iterator[Callable]:
    """Build launchers that are closed at the end of the test."""
    launchers: list[Launcher] = []

    def make(kind: str, **options) -> Launcher:
        options = {"mounts": (), "labels": SESSION_LABEL, "tmp_size": "64m"} | options
        if kind == "docker":
            options = {"image": request.getfixturevalue("tiny_image"), "worker": None} | options
        elif kind == "singularity":
            image = str(request.getfixturevalue("sandbox_image"))
            folder = request.getfixturevalue("apptainer")
            request.getfixturevalue("monkeypatch").setenv("PATH", str(folder), prepend=":")
            options = {"image": "", "worker": None, "singularity_image": image} | options
        else:
            options = {"image": "unused:1", "worker": (str(stand_in),)} | options
        launcher, _ = choose_launcher(kind, **options)
        launchers.append(launcher)
        return launcher

    yield make
    for launcher in launchers:
        launcher.close()


@pytest.fixture
def launcher(kind: str, make_launcher: Callable) -> Launcher:
    """Give a launcher of each kind with the stand-in worker."""
    return make_launcher(kind)
