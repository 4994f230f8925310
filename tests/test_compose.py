"""deploy/compose.yaml, brought up for real: two drivers and the dashboard on one PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import yaml
from databases import empty_database, trials_of
from support import require, wait_for

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "deploy" / "compose.yaml"
USER = 1000


@pytest.fixture
def image() -> Iterator[str]:
    """The driver's image, built from our Dockerfile."""
    if shutil.which("docker-compose") is None:
        require("docker", "docker-compose is not installed")
    name = os.environ.get("RML_TEST_DRIVER_IMAGE")
    if name is not None:
        yield name
        return
    name = f"rml-test/driver:{uuid.uuid4().hex[:8]}"
    built = subprocess.run(
        [ROOT / "scripts/ci/image.sh", name, "--target", "driver"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if built.returncode:
        require("docker", f"the driver's image cannot be built: {built.stdout[-2000:]}")
    yield name
    subprocess.run(["docker", "rmi", "--force", name], check=True, stdout=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def for_this_engine(folder: Path, port: int) -> Path:
    """Write the file for an engine with no networks but the host's, and with our own database.

    All else stays as it is: users, rights, folders, commands.
    """
    project = yaml.safe_load(COMPOSE.read_text())
    del project["services"]["database"]
    for service in project["services"].values():
        service["network_mode"] = "host"
        del service["build"], service["depends_on"]
    dashboard = project["services"]["dashboard"]
    (published,) = dashboard.pop("ports")
    assert published == "127.0.0.1:8080:8080"
    dashboard["command"] = dashboard["command"].replace("--port 8080", f"--port {port}")
    path = folder / "compose.yaml"
    path.write_text(json.dumps(project))
    return path


def test_the_database_gets_its_password_from_a_file() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert "POSTGRES_PASSWORD_FILE" in services["database"]["environment"]
    assert "ports" not in services["database"]


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.postgres
def test_two_drivers_and_the_dashboard_come_up(image: str, discs: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:3], discs):
        folder.chmod(folder.stat().st_mode | 0o055)
    out = tmp_path / "out"
    out.mkdir()
    with empty_database("postgres") as url:
        (tmp_path / "url").write_text(url)
        (tmp_path / "url").chmod(0o600)
        for path in (out, tmp_path / "url"):
            os.chown(path, USER, USER)
        port = free_port()
        base = ["docker-compose", "-f", for_this_engine(tmp_path, port), "-p", uuid.uuid4().hex]
        environment = os.environ | {
            "RML_IMAGE": image,
            "RML_DATA": str(discs),
            "RML_OUT": str(out),
            "RML_SEARCH": "--layers unet:width=4,depth=2 --resize 32,32 --no-gpu --jobs 1 "
            "--num-trials 6 --num-epochs 2 --pruner none",
        }

        def compose(*arguments: str) -> str:
            result = subprocess.run(
                [*base, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True
            )
            assert result.returncode == 0, result.stdout + result.stderr
            return result.stdout

        def numbers_of(state: str) -> int:
            try:
                return sum(trial.state.name == state for trial in trials_of(url))
            except (KeyError, ValueError, IndexError, optuna.exceptions.StorageInternalError):
                return 0

        try:
            compose("up", "-d", "--scale", "driver=2")
            wait_for(lambda: numbers_of("COMPLETE") == 6, 180)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies") as answer:
                assert "shared" in answer.read().decode()
            users = compose("exec", "-T", "dashboard", "id", "-u").split()
            assert users == [str(USER)]
            drivers = compose("ps", "-q", "driver").split()
            assert len(drivers) == 2
            codes = subprocess.run(
                ["docker", "wait", *drivers], capture_output=True, text=True, check=True
            )
            assert codes.stdout.split() == ["0", "0"]
            assert "best trial" in compose("logs", "driver")
            assert (out / "best_model/trial.json").stat().st_uid == USER
            # each driver has run some of them
            owners = {trial.user_attrs["lease"].split("/")[1] for trial in trials_of(url)}
            assert len(owners) == 2
        finally:
            compose("down", "--timeout", "5")
