"""Starts a private Docker engine and makes a tiny image of this machine's own files."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from stand_in import STAND_IN

DEFAULT_SOCKET = "/var/run/docker.sock"
PROGRAMS = ("sh", "cat", "env", "grep", "id", "kill", "ls", "mkdir", "nproc", "rm", "ln")
PROGRAMS += ("chmod", "chown", "chroot", "mknod", "mount", "sleep", "tail", "timeout", "touch")


def skip_or_fail(component: str, reason: str) -> None:
    """Skip on a user's machine; fail where RML_REQUIRE says that the component is there."""
    if component in os.environ.get("RML_REQUIRE", "").split(","):
        pytest.fail(f"RML_REQUIRE names {component}, but {reason}")
    pytest.skip(reason)


def answers(path: str) -> bool:
    """Say whether something listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(path)
        return True
    return False


@contextlib.contextmanager
def private_engine() -> Iterator[str]:
    """Run dockerd on a data root of its own, without touching the network of the machine."""
    folder = Path(tempfile.mkdtemp(prefix="rml-dockerd-"))
    path = f"{folder}/docker.sock"
    roots = (f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid")
    network = ("--iptables=false", "--bridge=none")
    with (folder / "log").open("wb") as log:
        engine = subprocess.Popen(
            ("dockerd", f"--host=unix://{path}", *roots, *network),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 30
        while not answers(path):
            if engine.poll() is not None or time.monotonic() > deadline:
                tail = (folder / "log").read_text()[-500:]
                skip_or_fail("docker", f"dockerd does not start: {tail}")
            time.sleep(0.05)
        yield f"unix://{path}"
    finally:
        engine.terminate()
        engine.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def import_tiny_image(
    client: docker.DockerClient, name: str, *changes: str, worker: str = STAND_IN
) -> None:
    """Import the tiny image under a name, with changes such as `ENV A=b`."""
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            write_tiny_root(archive, worker)
        file.seek(0)
        repository, tag = name.split(":")
        path = ["ENV PATH=/usr/bin", *changes]
        client.api.import_image_from_data(file.read(), repository, tag, changes=path)


def write_tiny_root(archive: tarfile.TarFile, worker: str = STAND_IN) -> None:
    """Put a root file system of this machine's own files into an archive."""
    for folder in ("usr/bin", "usr/lib", "etc", "tmp", "proc", "sys", "dev"):
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(entry)
    for link, target in {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib"}.items():
        entry = tarfile.TarInfo(link)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        archive.addfile(entry)
    libraries: set[str] = set()
    for name in PROGRAMS:
        path = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
        if path is None:
            skip_or_fail("docker", f"no {name} here to make the test image of")
        archive.add(Path(path).resolve(), f"usr/bin/{name}")
        listing = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
        libraries.update(re.findall(r"(/\S+\.so\S*) \(0x", listing.stdout))
    for library in sorted(libraries):
        archive.add(Path(library).resolve(), f"usr/lib/{Path(library).name}")
    program = tarfile.TarInfo("usr/bin/rmldnn")
    program.mode, program.size = 0o755, len(worker)
    archive.addfile(program, io.BytesIO(worker.encode()))


def unpack_tiny_root(folder: Path, worker: str = STAND_IN) -> None:
    """Make the tiny image a folder, which Singularity takes for an image."""
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            write_tiny_root(archive, worker)
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            archive.extractall(folder, filter="tar")
