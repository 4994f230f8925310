"""What only containers show: what they are refused, leave behind, and an engine's errors."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
from docker_engine import import_tiny_image, skip_or_fail
from stand_in import ANSWER, SESSION_LABEL, until, wait, write_job

from hpo.errors import LauncherError
from hpo.launchers import DEFAULT_IMAGE, Mount, Slot, choose_launcher
from hpo.launchers.log import BoundedLog, open_log
from hpo.launchers.users import NOBODY, container_user

pytestmark = pytest.mark.docker

MEMORY_HOG = "tail /dev/zero"  # a line without an end


def containers(client):
    label = next(f"{key}={value}" for key, value in SESSION_LABEL.items())
    return client.containers.list(all=True, filters={"label": label})


def run(launcher, tmp_path, script, **fields):
    """Run a script in a container and return its output."""
    handle = launcher.start(write_job(tmp_path / "run", script, **fields))
    assert wait(handle) == 0, handle.log_tail()
    return handle.log_tail(100)


@pytest.fixture
def launcher(make_launcher):
    return make_launcher("docker")


def test_container_is_removed_after_its_end(launcher, docker_client, tmp_path):
    handle = launcher.start(write_job(tmp_path / "run", "sleep 0.3"))
    assert len(containers(docker_client)) == 1
    wait(handle)
    assert containers(docker_client) == []


def test_pruned_trial_stops_and_removes_its_container(launcher, docker_client, tmp_path):
    handle = launcher.start(write_job(tmp_path / "run", "trap '' TERM; echo up; sleep 60"))
    until(lambda: "up" in handle.log_tail())
    handle.stop()
    assert containers(docker_client) == []


def test_container_carries_the_drivers_labels(launcher, docker_client, tmp_path):
    handle = launcher.start(write_job(tmp_path / "run", "sleep 60"))
    [container] = containers(docker_client)
    assert SESSION_LABEL.items() <= container.labels.items()
    handle.stop()


def test_worker_works_in_the_tutorials_folder(launcher, tmp_path):
    assert run(launcher, tmp_path, "pwd") == "/home/ubuntu"


def test_worker_is_the_owner_of_the_run_folder_and_never_root(launcher, tmp_path):
    uid, gid = run(launcher, tmp_path, "id -u; id -g; touch mine").split()
    written = (tmp_path / "run" / "mine").stat()
    assert (int(uid), int(gid)) == (written.st_uid, written.st_gid)
    assert int(uid) == (os.geteuid() or NOBODY)


def test_root_driver_takes_the_run_folders_owner(tmp_path, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(tmp_path, 1234, 5678)
    assert container_user(tmp_path) == "1234:5678"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("os.getegid", lambda: 1001)
    assert container_user(tmp_path) == "1000:1001"
    assert container_user(tmp_path, rootless=True) == "0:0"


def test_giving_the_run_folder_away_spares_links(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    original = tmp_path / "original.png"
    original.touch()
    run_dir = tmp_path / "run"
    (run_dir / "sub").mkdir(parents=True)
    (run_dir / "config.json").touch()
    (run_dir / "hard.png").hardlink_to(original)
    (run_dir / "sub" / "soft.png").symlink_to(original)
    assert container_user(run_dir) == f"{NOBODY}:{NOBODY}"
    assert (run_dir / "config.json").stat().st_uid == NOBODY
    assert (run_dir / "sub").stat().st_uid == NOBODY
    assert original.stat().st_uid == 0


def test_worker_has_no_capabilities_and_gets_no_new_privileges(launcher, tmp_path):
    output = run(launcher, tmp_path, "grep -E '^(Cap|NoNewPrivs)' /proc/self/status")
    status = dict(line.split(":") for line in output.replace("\t", "").splitlines())
    assert status.pop("NoNewPrivs") == "1"
    assert len(status) == 5
    assert {int(value, 16) for value in status.values()} == {0}


def test_a_capability_can_be_added(make_launcher, tmp_path):
    launcher = make_launcher("docker", cap_add=("SYS_PTRACE",))
    bounding = run(launcher, tmp_path, "grep ^CapBnd /proc/self/status").split()[1]
    assert int(bounding, 16) == 1 << 19


def test_worker_has_no_network(launcher, tmp_path):
    output = run(launcher, tmp_path, "ls /sys/class/net; cat /proc/net/route")
    assert [line for line in output.splitlines() if "Iface" not in line] == ["lo"]


def test_root_and_mounts_are_read_only_and_the_rest_is_writable(make_launcher, tmp_path):
    mount = Mount(name="data", path=tmp_path / "data")
    mount.path.mkdir(mode=0o777)
    mount.path.chmod(0o777)
    launcher = make_launcher("docker", mounts=[mount])
    script = "for d in / /usr /etc /rml /rml/data /tmp $HOME /dev/shm .; do "
    script += "touch $d/x 2>/dev/null && echo $d; done; true"
    assert run(launcher, tmp_path, script).split() == ["/tmp", "/tmp", "/dev/shm", "."]
    assert not list(mount.path.iterdir())


def test_home_and_caches_are_writable_and_programs_there_can_run(launcher, tmp_path):
    script = 'mkdir -p $TORCHINDUCTOR_CACHE_DIR $MPLCONFIGDIR && echo "#!/bin/sh" > /tmp/p'
    script += " && echo echo $USER $HOME >> /tmp/p && cat /tmp/p > $XDG_CACHE_HOME/p"
    script += " && sh $XDG_CACHE_HOME/p && grep ' /tmp ' /proc/mounts"
    user, mounts = run(launcher, tmp_path, script).splitlines()
    assert user == "rml /tmp"
    assert "noexec" not in mounts
    assert "nosuid" in mounts


def test_sizes_are_as_asked(make_launcher, tmp_path):
    launcher = make_launcher("docker", shm_size="96m", tmp_size="32m")
    mounts = run(launcher, tmp_path, "grep -E ' (/dev/shm|/tmp) ' /proc/mounts")
    assert "size=98304k" in mounts
    assert "size=32768k" in mounts


def test_memory_is_an_equal_share_unless_a_limit_is_given(make_launcher, docker_client, tmp_path):
    total = docker_client.info()["MemTotal"]
    for options, expected in (({"num_slots": 4}, total * 0.9 / 4), ({"memory": "64m"}, 2**26)):
        launcher = make_launcher("docker", **options)
        handle = launcher.start(write_job(tmp_path / str(expected), "sleep 60"))
        [container] = containers(docker_client)
        limits = container.attrs["HostConfig"]
        assert abs(limits["Memory"] - expected) < 2**21
        assert limits["MemorySwap"] == limits["Memory"]
        assert f"{limits['Memory'] >> 20}m memory, 1g of it as shared memory" in launcher.limits()
        assert "4096 processes; 64 MiB of log" in launcher.limits()
        handle.stop(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_worker_reads_what_the_users_groups_may_read(make_launcher, tmp_path, monkeypatch):
    project, user = 12345, 1234
    data = tmp_path / "project"
    data.mkdir()
    (data / "image").write_text("pixels")
    os.chown(data, 0, project)
    data.chmod(0o750)
    job = write_job(tmp_path / "run", "id; cat /rml/data/image")
    for path in (job.run_dir, *job.run_dir.iterdir()):
        os.chown(path, user, user)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "getegid", lambda: user)
    monkeypatch.setattr(os, "getgroups", lambda: [0, project, user])
    launcher = make_launcher("docker", mounts=[Mount(name="data", path=data)])
    handle = launcher.start(job)
    assert wait(handle) == 0, handle.log_tail()
    identity, pixels = handle.log_tail().splitlines()
    assert pixels == "pixels"
    assert identity.endswith(f"groups={user},{project}"), "and not root's"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_an_engine_that_does_not_see_our_folders_is_told_so(docker_host, tiny_image, tmp_path):
    # as an engine of another machine, or one whose socket a container was given
    code = "import sys; from pathlib import Path; from hpo.errors import LauncherError\n"
    code += "from hpo.launchers import Slot, WorkerJob, choose_launcher\n"
    code += "here = Path(sys.argv[1]) / 'run'; here.mkdir()\n"
    code += "launcher, _ = choose_launcher('docker', worker=None, image=sys.argv[2], mounts=())\n"
    code += "try: launcher.start(WorkerJob(run_dir=here, slot=Slot(index=0)))\n"
    code += "except LauncherError as error: print(error)\n"
    private = 'mount -t tmpfs none "$0" && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", private, tmp_path, sys.executable, "-c", code]
    result = subprocess.run(
        [*command, tmp_path, tiny_image], capture_output=True, text=True, check=False
    )
    assert f"the Docker engine at {docker_host} does not see this machine's folders" in (
        result.stdout
    ), result.stderr


def test_a_fork_bomb_meets_its_limit(make_launcher, tmp_path):
    launcher = make_launcher("docker", max_pids=20)
    script = "i=0; while [ $i -lt 40 ]; do sleep 20 & i=$((i+1)); done"
    handle = launcher.start(write_job(tmp_path / "run", script))
    assert wait(handle) != 0
    assert "fork" in handle.log_tail().lower()


def test_worker_at_its_memory_limit_is_told_from_another_kill(make_launcher, tmp_path):
    launcher = make_launcher("docker", memory="32m")
    handle = launcher.start(write_job(tmp_path / "run", f"exec {MEMORY_HOG}"))
    assert wait(handle) == 137
    assert handle.oom_killed


def test_child_at_the_memory_limit_counts_where_the_worker_fails_of_it(make_launcher, tmp_path):
    launcher = make_launcher("docker", memory="32m")
    handle = launcher.start(write_job(tmp_path / "run", f"{MEMORY_HOG} || exit 9"))
    assert (wait(handle), handle.oom_killed) == (9, True)


def test_no_gpu_unless_the_slot_has_one(launcher, tmp_path):
    assert run(launcher, tmp_path, "echo $NVIDIA_VISIBLE_DEVICES") == "void"


def test_missing_nvidia_runtime_is_said_and_leaves_no_container(launcher, docker_client, tmp_path):
    if "nvidia" in docker_client.info().get("Runtimes", {}):
        pytest.skip("this engine has an NVIDIA runtime")
    slot = Slot(index=0, gpu_uuids=("GPU-1",), num_threads=1)
    with pytest.raises(LauncherError, match=r"NVIDIA Container Toolkit.*--no-gpu"):
        launcher.start(write_job(tmp_path / "run", "true", slot=slot))
    assert containers(docker_client) == []


def test_missing_image_names_the_commands_that_bring_it(docker_host):
    with pytest.raises(
        LauncherError, match=r"'no/such:1' is not present: `docker pull no/such:1`"
    ):
        choose_launcher("docker", worker=None, image="no/such:1", mounts=())


def test_missing_engine_names_the_ways_out(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(LauncherError, match=r"systemctl start docker.*--launcher local"):
        choose_launcher("docker", worker=None, image="x:1", mounts=())


def test_missing_mount_is_refused_before_anything_starts(tiny_image, tmp_path):
    mounts = [Mount(name="data", path=tmp_path / "none")]
    with pytest.raises(LauncherError, match=r"cannot mount .*none': no such folder"):
        choose_launcher("docker", worker=None, image=tiny_image, mounts=mounts)


def test_auto_takes_docker_where_the_image_is(tiny_image):
    launcher, why = choose_launcher("auto", worker=None, image=tiny_image, mounts=())
    launcher.close()
    assert (launcher.name, why) == (
        "docker",
        "docker, because an engine answers and has the image",
    )
    assert launcher.describe().startswith(f"containers of {tiny_image} (")


def test_auto_is_local_where_the_image_is_not(docker_host):
    launcher, why = choose_launcher("auto", worker=None, image="no/such:1", mounts=())
    assert launcher.name == "local"
    assert why.startswith("local, because image 'no/such:1' is not present")


def test_capabilities_are_asked_of_the_image(docker_client, tiny_image, make_launcher):
    image = "rml-test/tiny:answers"
    import_tiny_image(
        docker_client, image, f'ENV STAND_IN_ANSWER="{ANSWER.replace(chr(34), chr(92) + chr(34))}"'
    )
    try:
        assert make_launcher("docker", image=image).capabilities() == {"a.b", "c"}
    finally:
        docker_client.images.remove(image, force=True)


def test_image_without_a_worker_is_an_error(docker_client, make_launcher):
    image = "rml-test/tiny:empty"
    import_tiny_image(docker_client, image, "ENV PATH=/nowhere")
    try:
        with pytest.raises(LauncherError, match=r"cannot be run: .*rmldnn"):
            make_launcher("docker", image=image).capabilities()
    finally:
        docker_client.images.remove(image, force=True)


def test_container_removed_by_somebody_else_ends_the_trial(launcher, docker_client, tmp_path):
    handle = launcher.start(write_job(tmp_path / "run", "sleep 60"))
    [container] = containers(docker_client)
    container.remove(force=True)
    assert wait(handle) == 137
    assert not handle.oom_killed


def test_bounded_log_says_once_that_it_was_cut(tmp_path):
    log = BoundedLog(open_log(tmp_path), max_bytes=10)
    for _ in range(3):
        log.write(b"123456")
    log.close()
    text = (tmp_path / "worker.log").read_text()
    assert text == "1234561234\n[rml-optimize: log cut after 10 bytes]\n"


def test_long_silence_does_not_end_the_watch(launcher, tmp_path):
    # requests to the engine time out, the wait for a trial's end must not
    launcher._client.api.timeout = 1.0
    handle = launcher.start(write_job(tmp_path / "run", "sleep 2; echo late"))
    assert (wait(handle), handle.log_tail()) == (0, "late")


def test_no_thread_is_left_after_the_end(launcher, tmp_path):
    wait(launcher.start(write_job(tmp_path / "run", "true")))
    deadline = time.monotonic() + 2
    while any(thread.name == "container" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def worker_image(docker_client):
    """Name the real image: what CI built, or the default one where somebody built it."""
    image = os.environ.get("RML_TEST_IMAGE", DEFAULT_IMAGE)
    if not any(image in entry.tags for entry in docker_client.images.list()):
        skip_or_fail("docker", f"image {image} is not present; `docker build -t {image} .`")
    return image


def test_our_image_answers_under_all_restrictions(worker_image, make_launcher, tmp_path):
    launcher = make_launcher("docker", image=worker_image)
    handle = launcher.start(write_job(tmp_path / "run", "", args=("--help",)))
    assert wait(handle, 60) == 0, handle.log_tail()
    assert "--config" in handle.log_tail(100)
    assert launcher.capabilities()


def test_containers_share_a_cache_and_write_nothing_else_of_the_host(make_launcher, tmp_path):
    cache = tmp_path / "my cache"
    launcher = make_launcher("docker", cache=cache)
    run(launcher, tmp_path, "echo mine > $RML_CACHE_DIR/entry")
    assert run(launcher, tmp_path, "cat $RML_CACHE_DIR/entry; ls /rml") == "mine\ncache"
    assert (cache / "entry").read_text() == "mine\n"
    assert (cache / "entry").stat().st_uid == (os.geteuid() or NOBODY)


def test_container_without_a_cache_folder_is_told_so(launcher, tmp_path):
    assert run(launcher, tmp_path, "echo $RML_CACHE_DIR") == "off"
