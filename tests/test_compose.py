"""deploy/compose.yaml, brought up for real: PostgreSQL, the dashboard, two drivers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from databases import trials_of
from sqlalchemy import URL
from support import require, wait_for

from hpo.errors import StorageError
from hpo.study.common import reading
from hpo.study.queries import StudyReader, study_names

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
    command = (ROOT / "scripts/ci/image.sh", "{}", "--target", "driver")
    with built("driver", command, needs="docker") as name:
        yield name


@pytest.fixture
def postgres_image() -> Iterator[str]:
    """An image of this machine's PostgreSQL, in the place of Docker Hub's."""
    command = (ROOT / "scripts/ci/postgres-image.sh", "{}")
    with built("postgres", command, needs="postgres") as name:
        yield name


@contextlib.contextmanager
def built(kind: str, command: Sequence[object], *, needs: str) -> Iterator[str]:
    """Build an image by a command in which {} is its name, and remove it afterwards."""
    name = f"rml-test/{kind}:{uuid.uuid4().hex[:8]}"
    done = subprocess.run(
        [str(word).replace("{}", name) for word in command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode:
        require(needs, f"no image for {kind} can be built: {done.stdout[-2000:]}")
    yield name
    subprocess.run(["docker", "rmi", "--force", name], check=True, stdout=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def for_this_engine(folder: Path, database_port: int, dashboard_port: int) -> Path:
    """Write the file for an engine that has no networks but the host's.

    All else stays as it is: users, rights, folders, commands, the database's name.
    """
    project = yaml.safe_load(COMPOSE.read_text())
    for service in project["services"].values():
        service["network_mode"] = "host"
        service.pop("build", None)
    database, driver, dashboard = (
        project["services"][name] for name in ("database", "driver", "dashboard")
    )
    database["environment"]["PGPORT"] = str(database_port)
    database["command"] = "postgres -c listen_addresses=127.0.0.1"
    for service in (driver, dashboard):
        service["extra_hosts"] = ["database:127.0.0.1"]
    (published,) = dashboard.pop("ports")
    assert published == "127.0.0.1:8080:8080"
    dashboard["command"] = dashboard["command"].replace("--port 8080", f"--port {dashboard_port}")
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
def test_database_dashboard_and_two_drivers_come_up(
    image: str, postgres_image: str, discs: Path, tmp_path: Path
) -> None:
    for folder in (tmp_path, *tmp_path.parents[:3], discs):
        folder.chmod(folder.stat().st_mode | 0o055)
    out = tmp_path / "out"
    out.mkdir()
    password, ports = "s:e/c@ret", (free_port(), free_port())
    url = URL.create("postgresql+psycopg", "rml", password, "database", ports[0], "rml")
    secrets = {"password": password, "url": url.render_as_string(hide_password=False)}
    for name, text in secrets.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    for path in (out, tmp_path / "url"):
        os.chown(path, USER, USER)
    from_here = url.set(host="127.0.0.1").render_as_string(hide_password=False)
    base = ["docker-compose", "-f", for_this_engine(tmp_path, *ports), "-p", uuid.uuid4().hex]
    environment = os.environ | {
        "RML_IMAGE": image,
        "RML_POSTGRES_IMAGE": postgres_image,
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

    def num_complete() -> int:
        try:
            # Only read: Optuna would make the tables in a race with the drivers.
            with reading(from_here) as engine:
                number = study_names(engine).get("shared")
                states = StudyReader(engine, number).states() if number is not None else {}
                return states.get("COMPLETE", 0)
        except StorageError:  # it starts
            return 0

    try:
        compose("up", "-d", "--scale", "driver=2")
        wait_for(lambda: num_complete() == 6, 400)
        (query,) = set(re.findall(r"\?token=\S+", compose("logs", "dashboard")))
        address = f"http://127.0.0.1:{ports[1]}/api/studies{query}"
        with urllib.request.urlopen(address) as answer:
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
        owners = {trial.user_attrs["lease"].split("/")[1] for trial in trials_of(from_here)}
        assert len(owners) == 2
    finally:
        compose("down", "--volumes", "--timeout", "5")
