"""Images that mean harm: what they declare, and what they leave where the driver cleans up."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import docker
import pytest
from docker_engine import import_tiny_image
from stand_in import SESSION_LABEL, wait, write_job

from hpo.errors import LauncherError
from hpo.launchers import Launcher, Mount

MakeLauncher = Callable[..., Launcher]
MakeImage = Callable[..., str]


@pytest.fixture
def make_image(docker_client: docker.DockerClient) -> Iterator[MakeImage]:
    names = []

    def make(*changes: str, **options: Any) -> str:
        names.append(f"rml-test/hostile:{uuid.uuid4().hex[:8]}")
        import_tiny_image(docker_client, names[-1], *changes, **options)
        return names[-1]

    yield make
    for name in names:
        docker_client.images.remove(name, force=True)


def run(launcher: Launcher, run_dir: Path, script: str, **fields: Any) -> str:
    handle = launcher.start(write_job(run_dir, script, **fields))
    assert wait(handle) == 0, handle.log_tail()
    return handle.log_tail(100)


@pytest.mark.docker
def test_a_declared_volume_is_a_bounded_folder_in_memory(
    make_launcher: MakeLauncher,
    make_image: MakeImage,
    docker_client: docker.DockerClient,
    tmp_path: Path,
) -> None:
    said: list[str] = []
    image = make_image("VOLUME /vol/a", "VOLUME /tmp", "VOLUME /home/ubuntu")
    launcher = make_launcher("docker", image=image, tmp_size="32m", warn=said.append)
    before = {volume.id for volume in docker_client.volumes.list()}
    script = "grep -E ' (/vol/a|/home/ubuntu) ' /proc/mounts; touch /vol/a/x; ls /home/ubuntu"
    output = run(launcher, tmp_path / "run", script)
    mounts = dict(line.split()[1:3] for line in output.splitlines() if "/" in line)
    assert mounts["/vol/a"] == "tmpfs"
    assert "size=32768k" in output
    assert mounts["/home/ubuntu"] != "tmpfs", "the run folder"
    assert "worker.sh" in output
    assert {volume.id for volume in docker_client.volumes.list()} <= before
    assert "volumes (/home/ubuntu, /vol/a)" in said[0]


@pytest.mark.docker
@pytest.mark.parametrize("path", ["/rml/data", "/home/ubuntu/temp_model", "/dev/shm", "/"])
def test_a_volume_where_ours_are_is_refused(
    make_launcher: MakeLauncher, make_image: MakeImage, path: str
) -> None:
    image = make_image(f"VOLUME {path}")
    with pytest.raises(LauncherError, match="declares the volume"):
        make_launcher("docker", image=image)


@pytest.mark.docker
def test_the_images_health_check_does_not_run(
    make_launcher: MakeLauncher, docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    launcher = make_launcher("docker")
    handle = launcher.start(write_job(tmp_path / "run", "sleep 60"))
    label = f"rml.session={SESSION_LABEL['rml.session']}"
    [container] = docker_client.containers.list(filters={"label": label})
    assert container.attrs["Config"]["Healthcheck"]["Test"] == ["NONE"]
    handle.stop(0)


PLANT = """\
#!/bin/sh
mkdir d && ln -s VICTIM d/s && ln -s VICTIM/.. d/t
i=0; while [ $i -lt 300 ]; do mkdir xxxxxxxxxx && cd xxxxxxxxxx || exit 9; i=$((i+1)); done
cd /home/ubuntu && chmod 500 d
echo '{"capabilities": ["a.b"]}'
"""


@pytest.mark.docker
def test_what_a_probe_leaves_is_removed_and_changes_no_file_of_the_host(
    make_launcher: MakeLauncher,
    make_image: MakeImage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    victim.chmod(0o644)
    (tmp_path / "probes").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "probes"))
    worker = PLANT.replace("VICTIM", str(victim))
    launcher = make_launcher("docker", image=make_image(worker=worker))
    assert launcher.capabilities() == {"a.b"}
    assert not list((tmp_path / "probes").iterdir())
    assert victim.read_text() == "mine"
    assert victim.stat().st_mode & 0o777 == 0o644


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder that has the output folder in it."""
    root = tmp_path / "project"
    for name in ("train/inputs", "train/targets", "test/inputs", "test/targets", "runs/s"):
        (root / name).mkdir(parents=True)
        (root / name / "file").touch()
    (root / "rml_optimize.db").touch()
    return root


@pytest.mark.parametrize("kind", [pytest.param("docker", marks=pytest.mark.docker), "singularity"])
def test_a_container_gets_the_parts_alone_and_test_images_only_for_a_test(
    kind: str, make_launcher: MakeLauncher, data: Path, tmp_path: Path
) -> None:
    parts = tuple(map(PurePosixPath, ("train/inputs", "train/targets")))
    tests = tuple(map(PurePosixPath, ("test/inputs", "test/targets")))
    mounts = (
        Mount(name="images", path=data, parts=parts),
        Mount(name="data", path=data, parts=tests, for_tests=True),
    )
    cache = tmp_path / "cache"
    launcher = make_launcher(kind, mounts=mounts, cache=cache)
    script = "ls /rml; ls /rml/images /rml/data 2>/dev/null; echo $RML_CACHE_DIR"
    seen = run(launcher, tmp_path / "a", script).split()
    assert "rml_optimize.db" not in seen
    assert "runs" not in seen
    assert "test" not in seen
    assert "data" not in seen
    assert seen[-1] == "/rml/cache"
    seen = run(launcher, tmp_path / "b", script, sees_tests=True).split()
    assert "test" in seen
    assert "rml_optimize.db" not in seen
    assert seen[-1] == "off", "what is decoded of test images is for no training"
