"""A Docker engine that is restarted under a search costs time, no trial."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker_engine import import_tiny_image
from stand_in import serving
from support import list_acc, optimize, require, start, states, wait_for

IMAGE = "rml-test/restart:1"
CONTROL = Path(__file__).parents[2] / "scripts/ci/dockerd.sh"
TRAIN = """
rm -f out_test.txt
for epoch in 1 2 3 4; do sleep 0.7; echo "$epoch 0.1 0.5 0.$epoch" >> out_test.txt; done
"""
COLD = f'#!/bin/sh\ncase "$1" in --config=*) {TRAIN} ;; *) exit 64 ;; esac\n'
WARM = serving(TRAIN, otherwise="exit 64")


class Engine:
    """A Docker engine of our own that can be started again."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rml-restart-"))
        self.host = ""

    def start(self) -> None:
        done = subprocess.run([CONTROL, "start", self._folder], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            require("docker", "dockerd does not start")
        self.host = done.stdout.strip()

    def stop(self) -> None:
        subprocess.run([CONTROL, "stop", self._folder], check=True)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture
def engine() -> Iterator[Engine]:
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        require("docker", "only root can start an engine, and dockerd must be installed")
    engine = Engine()
    try:
        engine.start()
        yield engine
    finally:
        engine.close()


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.parametrize("worker", [COLD, WARM], ids=["cold", "warm"])
def test_restarted_engine_costs_no_trial(
    engine: Engine, discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    client = docker.DockerClient(base_url=engine.host)
    import_tiny_image(client, IMAGE, worker=worker)
    arguments = optimize(
        discs, "--num-trials", 6, "--num-epochs", 4, "--jobs", 2, "--no-gpu", "--pruner", "none",
        "--launcher", "docker", "--docker-image", IMAGE,
    )  # fmt: skip
    driver = start(tmp_path, *arguments)
    try:
        wait_for((tmp_path / "list_acc.json").exists, 60)  # a trial is finished, others run
        engine.stop()
        engine.start()
        output = driver.communicate(timeout=180)[0]
    finally:
        driver.kill()
    assert driver.returncode == 0, output
    assert list(states(tmp_path).values()) == ["COMPLETE"] * 6
    assert len(list_acc(tmp_path)) == 6
    assert [each.attrs["State"] for each in client.containers.list(all=True)] == []
    client.close()
