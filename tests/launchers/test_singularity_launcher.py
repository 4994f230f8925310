"""What only Singularity shows: its command line, its environment, its scratch folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid

import pytest
from stand_in import until, wait, write_job
from test_launcher_contract import IGNORES_TERM, is_alive

from hpo.errors import LauncherError
from hpo.launchers import Mount, Slot, choose_launcher

DRIVER = """
import sys, time
from pathlib import Path
from hpo.launchers import Slot, WorkerJob, choose_launcher
launcher, _ = choose_launcher(
    "auto", worker=None, image="", mounts=(), singularity_image=sys.argv[2])
launcher.start(WorkerJob(run_dir=Path(sys.argv[1]), slot=Slot(index=0)))
print("started", flush=True)
time.sleep(60)
"""


@pytest.fixture
def launcher(make_launcher, tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    return make_launcher("singularity")


def run(launcher, tmp_path, script, **fields):
    handle = launcher.start(write_job(tmp_path / "run", script, **fields))
    assert wait(handle) == 0, handle.log_tail()
    return handle.log_tail(100)


@pytest.mark.parametrize("missing", ["--containall", "--no-home", "--no-privs", "--net"])
def test_stand_in_refuses_a_command_line_that_isolates_less(apptainer, sandbox_image, missing):
    options = ["--containall", "--no-home", "--no-privs", "--net"]
    options.remove(missing)
    command = [apptainer / "apptainer", "exec", *options, "--network", "none", sandbox_image, "id"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, missing in result.stderr) == (255, True)


def test_gpus_are_asked_for_where_the_slot_has_some(launcher, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    spy = tmp_path / "bin" / "apptainer"
    spy.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/line\nexec {launcher._program} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setattr(launcher, "_program", str(spy))
    slot = Slot(index=0, gpu_uuids=("GPU-a", "MIG-b"))
    # a value with a comma, which --env could not carry
    assert run(launcher, tmp_path, "echo $CUDA_VISIBLE_DEVICES", slot=slot) == "GPU-a,MIG-b"
    assert "--nv" in (tmp_path / "line").read_text().split()
    run(launcher, tmp_path, "true")
    assert "--nv" not in (tmp_path / "line").read_text().split()


def test_worker_gets_none_of_the_drivers_environment(launcher, tmp_path, monkeypatch):
    monkeypatch.setenv("RML_STORAGE", "postgresql://u:secret@h/d")
    for prefix in ("SINGULARITY", "APPTAINER"):
        monkeypatch.setenv(f"{prefix}ENV_TOKEN", "secret")
        monkeypatch.setenv(f"{prefix}_BIND", "/root")
    seen = run(launcher, tmp_path, "env; ls /")
    assert "secret" not in seen
    assert "root" not in seen.split()
    assert "TORCHINDUCTOR_CACHE_DIR=/tmp/cache/torchinductor" in seen


def test_program_finds_its_own_caches(launcher, tmp_path, monkeypatch):
    monkeypatch.setenv("APPTAINER_CACHEDIR", "/scratch/cache")
    monkeypatch.setenv("APPTAINER_BIND", "/root")
    environment = launcher._environment(write_job(tmp_path / "run", ""))
    assert environment["APPTAINER_CACHEDIR"] == "/scratch/cache"
    assert "APPTAINER_BIND" not in environment


def test_scratch_folder_is_gone_after_the_end_and_after_a_stop(launcher, tmp_path):
    assert run(launcher, tmp_path, "echo x > /tmp/file; cat /tmp/file") == "x"
    handle = launcher.start(write_job(tmp_path / "run", IGNORES_TERM))
    until(lambda: "ready" in handle.log_tail())
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    handle.stop()
    assert not list((tmp_path / "scratch").iterdir())


def test_killed_driver_leaves_no_container(apptainer, sandbox_image, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(apptainer), prepend=":")
    write_job(tmp_path / "run", "cat /proc/self/stat > pid; exec sleep 60")
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, tmp_path / "run", sandbox_image], stdout=subprocess.PIPE
    )
    pid_file = tmp_path / "run" / "pid"
    until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    parent = int(pid_file.read_text().rpartition(")")[2].split()[1])  # of `cat`: the worker
    assert is_alive(parent)
    driver.kill()
    driver.communicate()
    until(lambda: not is_alive(parent), timeout_s=5)


def test_both_names_of_the_program_are_taken(apptainer, sandbox_image, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    shutil.copy(apptainer / "singularity", tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    if shutil.which("apptainer"):
        pytest.skip("this machine has an Apptainer")
    launcher, why = choose_launcher(
        "auto", worker=None, image="", mounts=(), singularity_image=str(sandbox_image)
    )
    assert why == "singularity, because an image is named"
    assert launcher.describe() == f"containers of {sandbox_image}, {tmp_path}/bin/singularity"
    assert run(launcher, tmp_path, "echo $USER") == "rml"
    launcher.close()


def test_missing_program_and_image_are_said(tmp_path, monkeypatch, make_launcher):
    def refused(pattern, **options):
        with pytest.raises(LauncherError, match=pattern):
            choose_launcher("singularity", **{"worker": None, "image": "", "mounts": ()} | options)

    make_launcher("singularity")  # puts the program on the PATH
    refused("--singularity-image names no image")
    refused("no such file: 'x.sif'", singularity_image="x.sif")
    refused("apptainer pull worker.sif docker://a/b:1", singularity_image="docker://a/b:1")
    refused("drop one of the two", worker=("sh",), singularity_image="x.sif")
    mounts = [Mount(name="data", path=tmp_path / "none")]
    refused("no such folder", singularity_image=str(tmp_path), mounts=mounts)
    with pytest.raises(LauncherError, match="no effect with --launcher docker"):
        choose_launcher("docker", worker=None, image="", mounts=(), singularity_image="x.sif")
    monkeypatch.setenv("PATH", str(tmp_path))
    there = str(tmp_path)
    refused("neither `apptainer` nor `singularity`.*--launcher local", singularity_image=there)


def test_an_image_file_is_known_by_the_uuid_in_its_header(make_launcher, tmp_path):
    name = uuid.uuid4()
    image = tmp_path / "w.sif"
    header = b"#!/usr/bin/env run-singularity".ljust(32) + b"SIF_MAGIC".ljust(10) + b"01 02 "
    image.write_bytes(header + name.bytes)
    assert make_launcher("singularity", singularity_image=str(image)).image_id == f"sif:{name}"
    assert make_launcher("singularity").image_id is None


def test_image_without_a_worker_is_an_error(make_launcher, tmp_path):
    (tmp_path / "empty" / "usr" / "bin").mkdir(parents=True)
    launcher = make_launcher("singularity", singularity_image=str(tmp_path / "empty"))
    with pytest.raises(LauncherError, match=r"cannot be run: FATAL: .*rmldnn"):
        launcher.capabilities()
