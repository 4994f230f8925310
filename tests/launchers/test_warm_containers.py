"""One container carries out a slot's runs as if each had its own, whatever it tries."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container
from docker_engine import import_tiny_image
from stand_in import SESSION_LABEL, serving, until, wait, write_job
from support import list_acc, optimize, write_config

from hpo.errors import LauncherError
from hpo.launchers import Launcher, Mount, Slot, WorkerJob
from hpo.launchers.premounted import NUM_PREMOUNTED, PremountedFolders
from hpo.owner import driver_labels

docker_only = pytest.mark.docker

# Does what the run folder's worker.sh says, one folder after the other; hears of no stop.
SERVES = serving(
    "sh ./worker.sh >> worker.log 2>&1",
    greeting="echo not an answer",
    otherwise="exec sh ./worker.sh",
)
# "Trains" an epoch, and puts a link where the config of the next run will be.
PLANTS = serving(
    'echo "1 0.1 0.5 0.7" >> out_test.txt; ln -s /rml/data/secret /rml/runs/1/config.json; true',
    otherwise='echo "1 0.1 0.5 0.8" >> out_test.txt',
)
DIES_WITH_A_RUN = """\
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from stand_in import until, write_job
from hpo.launchers import choose_launcher
from hpo.owner import driver_labels
folder = Path(sys.argv[1])
launcher, _ = choose_launcher("docker", worker=None, image=sys.argv[3], mounts=(), pools=folder,
                              labels=driver_labels(sys.argv[4]))
launcher.start(write_job(folder / "run", "touch begun; sleep 600"))
until((folder / "run" / "begun").exists)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def image(docker_client: docker.DockerClient) -> Iterator[str]:
    """An image whose worker serves."""
    name = f"rml-test/serves:{uuid.uuid4().hex[:8]}"
    import_tiny_image(docker_client, name, worker=SERVES)
    yield name
    docker_client.images.remove(name, force=True)


@pytest.fixture
def warned() -> list[str]:
    """What the launcher has told the user."""
    return []


@pytest.fixture
def make(make_launcher: Callable, image: str, tmp_path: Path, warned: list[str]) -> Callable:
    """Build launchers that keep containers."""

    def build(**options: object) -> Launcher:
        options = {"image": image, "pools": tmp_path, "warn": warned.append} | options
        return make_launcher("docker", **options)

    return build


@pytest.fixture
def living(docker_client: docker.DockerClient) -> Callable[[], list[Container]]:
    """List the containers of this test's launchers."""
    label = next(f"{key}={value}" for key, value in SESSION_LABEL.items())

    def find() -> list[Container]:
        return docker_client.containers.list(all=True, filters={"label": label})

    return find


def pools(folder: Path) -> list[Path]:
    """Return the folders that wait for runs."""
    return list(folder.glob(".pool_*"))


@docker_only
def test_a_slots_runs_share_a_container_until_its_folders_are_used_up(
    make, living, tmp_path
) -> None:
    launcher = make()
    seen = []
    for number in range(NUM_PREMOUNTED + 2):
        job = write_job(tmp_path / "trial" / f"attempt {number}", f"echo {number} | cat > mine")
        handle = launcher.start(job)
        seen += [each.id for each in living()]
        assert wait(handle) == 0, handle.log_tail()
        assert (job.run_dir / "mine").read_text() == f"{number}\n"
        assert (job.run_dir / "mine").stat().st_uid == job.run_dir.stat().st_uid
    assert [seen.count(each) for each in dict.fromkeys(seen)] == [NUM_PREMOUNTED, 2]
    assert len(pools(tmp_path)) == 1, "only the living container's"
    launcher.close()
    assert living() == []
    assert pools(tmp_path) == []


@docker_only
def test_slots_have_containers_of_their_own(make, living, tmp_path) -> None:
    launcher = make()
    handles = [
        launcher.start(write_job(tmp_path / str(i), "sleep 0.5; pwd", slot=Slot(index=i)))
        for i in range(2)
    ]
    assert len(living()) == 2
    assert [wait(handle) for handle in handles] == [0, 0]
    assert [handle.log_tail() for handle in handles] == ["/rml/runs/0"] * 2


@docker_only
@pytest.mark.parametrize("options", [{"warm": False}, {"pools": None}])
def test_without_it_each_run_has_a_container(make, living, tmp_path, options) -> None:
    launcher = make(**options)
    seen = set()
    for number in range(2):
        handle = launcher.start(write_job(tmp_path / str(number), "pwd; sleep 0.2"))
        seen |= {each.id for each in living()}
        assert (wait(handle), handle.log_tail()) == (0, "/home/ubuntu")
    assert len(seen) == 2


@docker_only
def test_a_warm_container_is_restricted_as_a_cold_one(make, living, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("hpo.launchers.warm.STEP_GRACE_S", 0.1)
    settings = []
    for warm in (True, False):
        launcher = make(warm=warm, memory="64m", cap_add=("SYS_PTRACE",))
        handle = launcher.start(write_job(tmp_path / str(warm), "sleep 60"))
        [container] = living()
        config, host = container.attrs["Config"], container.attrs["HostConfig"]
        del host["Mounts"]
        settings.append((host, config["User"], config["Labels"], config["Env"]))
        mounts = container.attrs["Mounts"]
        assert all(each["RW"] for each in mounts)
        assert len(mounts) == (NUM_PREMOUNTED if warm else 1)
        handle.stop(0.1)
        launcher.close()
    assert settings[0] == settings[1]


@docker_only
def test_a_failed_run_gives_the_next_one_a_new_container(make, living, tmp_path) -> None:
    launcher = make()
    ids = []
    for number, code in enumerate((0, 3, 0)):
        handle = launcher.start(write_job(tmp_path / str(number), f"sleep 0.2; exit {code}"))
        ids += [each.id for each in living()]
        assert wait(handle) == code
    assert ids[0] == ids[1], "it was well until then"
    assert ids[1] != ids[2]


@docker_only
def test_a_log_that_the_worker_writes_itself_is_cut(make, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("hpo.launchers.log.MAX_LOG_BYTES", 10_000)
    script = "i=0; while [ $i -lt 3000 ]; do echo 0123456789; i=$((i+1)); done"
    handle = make().start(write_job(tmp_path / "run", script))
    assert wait(handle) == 0
    assert "log cut after 10000 bytes" in handle.log_tail()
    assert (tmp_path / "run" / "worker.log").stat().st_size < 10_100


@docker_only
def test_memory_limit_is_told_from_another_failure(make, tmp_path) -> None:
    launcher = make(memory="32m")
    assert wait(launcher.start(write_job(tmp_path / "good", "true"))) == 0
    handle = launcher.start(write_job(tmp_path / "hog", "tail /dev/zero"))
    assert (wait(handle), handle.oom_killed) == (137, True)
    after = launcher.start(write_job(tmp_path / "after", "exit 7"))
    assert (wait(after), after.oom_killed) == (7, False)


@docker_only
def test_a_killed_container_ends_its_run_only(make, living, tmp_path) -> None:
    launcher = make()
    handle = launcher.start(write_job(tmp_path / "long", "sleep 600"))
    [container] = living()
    container.kill("SIGKILL")
    assert wait(handle) == 128 + signal.SIGKILL
    assert wait(launcher.start(write_job(tmp_path / "next", "true"))) == 0


@docker_only
def test_a_worker_that_hears_nothing_is_ended(make, living, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("hpo.launchers.warm.STEP_GRACE_S", 0.1)
    handle = make().start(write_job(tmp_path / "long", "touch begun; sleep 600"))
    until((tmp_path / "long" / "begun").exists)
    handle.stop(0.1)
    assert handle.poll() in (128 + signal.SIGTERM, 128 + signal.SIGKILL)
    assert living() == []


@docker_only
@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("for f in /rml/runs/*; do ln -s $SECRET $f/config.json 2>&-; done; true", "config.json"),
        ("for f in /rml/runs/[1-9]*; do ln -s $SECRET $f/worker.log; done", "worker.log"),
        ("mkdir /rml/runs/1/temp_model", "temp_model"),
    ],
)
def test_what_is_planted_for_a_later_run_harms_nothing_and_is_reported(
    make, living, tmp_path, warned, deed, words
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("password")
    launcher = make()
    first = launcher.start(
        write_job(tmp_path / "trial_00000/attempt_1", f"SECRET={secret}\n{deed}")
    )
    assert wait(first) == 0, first.log_tail()
    [planter] = living()
    assert warned == []
    second = write_job(tmp_path / "trial_00001/attempt_1", "cat config.json; sleep 0.2")
    handle = launcher.start(second)
    assert planter.id not in [each.id for each in living()]
    assert (wait(handle), handle.log_tail()) == (0, "{}")
    assert sorted(path.name for path in second.run_dir.iterdir()) == [
        "config.json", "worker.log", "worker.sh"
    ]  # fmt: skip
    [line] = warned
    assert f"{words!r}" in line
    assert "trial_00001" in line
    assert secret.read_text() == "password"
    assert pools(tmp_path) == []


@docker_only
def test_a_search_goes_on_past_an_image_that_plants_links(
    docker_client, discs, run, tmp_path
) -> None:
    name = f"rml-test/plants:{uuid.uuid4().hex[:8]}"
    import_tiny_image(docker_client, name, worker=PLANTS)
    try:
        result = run(
            "rml-optimize", *optimize(discs, "--num-trials", 4, "--num-epochs", 1, "--jobs", 1),
            "--launcher", "docker", "--docker-image", name, "--study-name", "s",
        )  # fmt: skip
    finally:
        docker_client.images.remove(name, force=True)
    assert result.returncode == 0, result.stdout + result.stderr
    # Kept, reported and given another; kept, reported and given another.
    assert [entry["max_acc"] for entry in list_acc(tmp_path)] == [0.7, 0.8, 0.7, 0.8]
    said = " ".join((result.stdout + result.stderr).split())
    assert said.count("put 'config.json' into the folder of a later run") == 2
    assert pools(tmp_path / "runs/s") == []


@pytest.fixture
def enter_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Move `run` into the first folder, where a link appears after this was found empty."""
    premounted = PremountedFolders(tmp_path, "/rml/runs", None)
    (tmp_path / "run" / "temp_model").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("ours")

    def enter(link: str, target: Path) -> None:
        free_folder, listdir = premounted.mounts()["/rml/runs/0"], os.listdir

        def plant_before(folder: Path) -> list[str]:
            (free_folder / link).symlink_to(target)
            return listdir(folder)

        with monkeypatch.context() as patch:
            patch.setattr("os.listdir", plant_before)
            premounted.enter(tmp_path / "run")

    yield enter
    premounted.close()
    assert pools(tmp_path) == []


def test_a_link_that_appears_while_a_run_moves_in_is_replaced(enter_while, tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("password")
    enter_while("config.json", secret)
    assert (tmp_path / "run" / "config.json").read_text() == "ours"
    assert not (tmp_path / "run" / "config.json").is_symlink()
    assert secret.read_text() == "password"


def test_a_link_in_a_folders_place_is_not_entered(enter_while, tmp_path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    with pytest.raises(LauncherError, match=r"cannot move .*run to a warm container"):
        enter_while("temp_model", victim)
    assert list(victim.iterdir()) == []


@docker_only
def test_nothing_is_left_of_a_killed_driver_after_the_next_ones_sweep(
    docker_client, image, make, tmp_path
) -> None:
    database = uuid.uuid4().hex
    arguments = [str(tmp_path), str(Path(__file__).parent), image, database]
    killed = subprocess.run([sys.executable, "-c", DIES_WITH_A_RUN, *arguments])
    assert killed.returncode == -signal.SIGKILL
    mine = {"label": f"rml.database={database}"}
    assert len(docker_client.containers.list(all=True, filters=mine)) == 1
    assert len(pools(tmp_path)) == 1
    launcher = make(labels=driver_labels(database))
    assert wait(launcher.start(write_job(tmp_path / "mine", "true"))) == 0
    assert launcher.sweep() == 1
    assert len(docker_client.containers.list(all=True, filters=mine)) == 1, "our own"
    assert len(pools(tmp_path)) == 1, "our own"
    assert wait(launcher.start(write_job(tmp_path / "still there", "true"))) == 0


def curve(run_dir: Path) -> list[tuple[str, str, str]]:
    """Return epoch, loss and accuracy of each line of the test log; seconds differ."""
    lines = [line.split() for line in (run_dir / "out_test.txt").read_text().splitlines()]
    return [(epoch, loss, accuracy) for epoch, _, loss, accuracy in lines]


@docker_only
def test_a_warm_container_trains_to_the_numbers_of_a_cold_one_and_survives_a_prune(
    make, living, worker_image, tmp_path, discs
) -> None:
    mount = Mount(name="data", path=discs)
    options = {"image": worker_image, "mounts": (mount,), "cache": tmp_path / "cache"}

    def train(launcher: Launcher, name: str, **changes: object) -> WorkerJob:
        folder = tmp_path / name
        folder.mkdir()
        write_config(folder / "config.json", Path(launcher.worker_path(mount)), **changes)
        return WorkerJob(run_dir=folder, slot=Slot(index=0, num_threads=1))

    launcher = make(**options)
    first = train(launcher, "first", num_epochs=2)
    assert wait(launcher.start(first), 120) == 0
    [container] = living()
    pruned = train(launcher, "pruned", num_epochs=10_000)
    handle = launcher.start(pruned)
    until(lambda: (pruned.run_dir / "out_test.txt").exists() and curve(pruned.run_dir), 60)
    handle.stop()
    assert handle.poll() == 128 + signal.SIGTERM
    again = train(launcher, "again", num_epochs=2)
    assert wait(launcher.start(again), 60) == 0
    assert "All done (return value = 0)." in (again.run_dir / "worker.log").read_text()
    assert living() == [container]

    diverged = train(launcher, "bad", optimizer={"type": "sgd", "learning_rate": 1e30})
    handle = launcher.start(diverged)
    assert wait(handle, 60) == 3
    assert "error: " in handle.log_tail()
    assert living() == []

    launcher = make(**options, warm=False)
    cold = train(launcher, "cold", num_epochs=2)
    assert wait(launcher.start(cold), 120) == 0
    assert curve(first.run_dir) == curve(again.run_dir) == curve(cold.run_dir)
