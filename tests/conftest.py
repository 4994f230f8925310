"""Fixtures that many tests share: a small data set, the commands as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin_package import install, write_package
from prestarted import Prestarted
from support import BIN, STANDIN, Run, clean_environment, require, write_discs


def pytest_configure(config: pytest.Config) -> None:
    """Hide a machine's GPUs from all tests but `tests/gpu`: these compare bit by bit.

    `RML_TEST_DEVICE=cuda` leaves them; what then fails is equality, not the code.
    """
    asked = "RML_TEST_DEVICE" in os.environ or any("gpu" in word for word in config.args)
    if Path("/dev/nvidiactl").exists() and not asked:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 12 + 5 images, 32 pixels wide, in a folder with a blank in its name."""
    return write_discs(tmp_path_factory.mktemp("my study") / "data")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep decoded images out of the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RML_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def documented_plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of docs/plugins.md, installed by pip; a PYTHONPATH."""
    site = tmp_path_factory.mktemp("documented")
    install(write_package(tmp_path_factory.mktemp("my_package")), site)
    return site


@pytest.fixture
def standin() -> str:
    """The command of a worker that trains nothing; see standin_worker.py."""
    return f"{sys.executable} {STANDIN}"


@pytest.fixture(scope="session")
def worker_image() -> str:
    """The image of our own worker, built before the tests run."""
    name = os.environ.get("RML_TEST_IMAGE")
    if name is None:
        require("docker", "RML_TEST_IMAGE names no image; build one with `docker build`")
    assert name is not None
    return name


@pytest.fixture(scope="session")
def prestarted() -> Iterator[Prestarted]:
    """Runs commands without the start of a Python for each."""
    server = Prestarted()
    yield server
    server.close()


@pytest.fixture
def run(tmp_path: Path, prestarted: Prestarted) -> Run:
    """Run one of our commands as a user does, in an empty folder."""

    def run_command(
        command: str, *arguments: object, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        wanted = clean_environment() | environment
        words, folder = [*map(str, arguments)], cwd or tmp_path
        if prestarted.can_run(wanted):
            return prestarted.run(command, words, cwd=folder, environment=wanted, timeout=300)
        return subprocess.run(
            [str(BIN / command), *words],
            cwd=folder,
            env=wanted,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run_command
