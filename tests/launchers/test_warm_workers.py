"""One process carries out a slot's runs, with the numbers of a process each, until one fails."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stand_in import until, wait
from support import SLOW, write_config
from test_launcher_contract import is_alive

from hpo.launchers import Launcher, Slot, WorkerJob, choose_launcher
from hpo.launchers.stop_times import KEEP_STATE_GRACE_S

Start = Callable[..., tuple]


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launcher, _ = choose_launcher("local", worker=None, image="unused:1", mounts=())
    yield launcher
    launcher.close()


@pytest.fixture
def job(tmp_path: Path, discs: Path) -> Callable[..., WorkerJob]:
    """Make the run folder of a short training."""

    def make(name: str, *, slot: int = 0, **changes: object) -> WorkerJob:
        folder = tmp_path / name
        folder.mkdir()
        write_config(folder / "config.json", discs, **changes)
        return WorkerJob(run_dir=folder, slot=Slot(index=slot, num_threads=1))

    return make


def worker_processes() -> set[int]:
    """Return the processes that were started with --serve by this one, through their reapers."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            grandparent = parent_of(parent_of(int(folder.name)))
        except OSError:
            continue
        if b"--serve" in command and grandparent == os.getpid():
            found.add(int(folder.name))
    return found


def parent_of(pid: int) -> int:
    """Return the process that has started one, or taken it over."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def curve(run_dir: Path) -> list[tuple[str, str, str]]:
    """Return epoch, loss and accuracy of each line of the test log; seconds differ."""
    lines = [line.split() for line in (run_dir / "out_test.txt").read_text().splitlines()]
    return [(epoch, loss, accuracy) for epoch, _, loss, accuracy in lines]


def test_a_slot_keeps_its_process_and_the_numbers_stay(launcher, job, tmp_path, run) -> None:
    jobs = [job(f"run {index}", num_epochs=2) for index in range(2)]
    processes = []
    for each in jobs:
        assert wait(launcher.start(each), 60) == 0
        processes.append(worker_processes())
    assert len(processes[0]) == 1
    assert processes[0] == processes[1]

    cold = job("cold", num_epochs=2).run_dir
    assert run("rmldnn", "--config=config.json", cwd=cold).returncode == 0
    for each in jobs:
        assert curve(each.run_dir) == curve(cold)
        assert "All done (return value = 0)." in (each.run_dir / "worker.log").read_text()


def test_slots_have_processes_of_their_own(launcher, job) -> None:
    handles = [launcher.start(job(f"run {slot}", slot=slot)) for slot in range(2)]
    assert [wait(handle, 60) for handle in handles] == [0, 0]
    assert len(worker_processes()) == 2


def test_a_pruned_run_ends_at_its_step_and_leaves_its_process(launcher, job) -> None:
    long = job("long", num_epochs=10_000)
    handle = launcher.start(long)
    until(lambda: ((long.run_dir / "out_test.txt").exists() and curve(long.run_dir)) or None, 60)
    before = worker_processes()
    handle.stop()
    assert handle.poll() == 128 + signal.SIGTERM
    assert wait(launcher.start(job("next")), 60) == 0
    assert worker_processes() == before


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("keep_state", [True, False], ids=["given back", "pruned"])
def test_a_run_that_is_given_back_has_time_to_write_its_state_on_a_slow_disk(
    job, warm, keep_state
) -> None:
    command = (sys.executable, "-P", str(SLOW))
    launcher, _ = choose_launcher("local", worker=command, image="", mounts=(), warm=warm)
    checkpoints = {"save": "ck", "keep": "best", "resume": True}
    long = job("long", num_epochs=10_000, checkpoints=checkpoints)
    handle = launcher.start(long)
    until(lambda: ((long.run_dir / "out_test.txt").exists() and curve(long.run_dir)) or None, 60)
    assert not (long.run_dir / "ck/resume.pt").exists()  # half a minute has not passed
    if keep_state:
        handle.stop(KEEP_STATE_GRACE_S, keep_state=True)
    else:
        handle.stop()
    assert handle.poll() in (128 + signal.SIGTERM, 128 + signal.SIGKILL)
    assert (long.run_dir / "ck/resume.pt").exists() == keep_state
    launcher.close()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"loss": {"function": "Dise"}}, 2),
        ({"optimizer": {"type": "sgd", "learning_rate": 1e30}}, 3),
    ],
)
def test_a_failure_gives_the_next_run_a_new_process(launcher, job, changes, code) -> None:
    assert wait(launcher.start(job("good")), 60) == 0
    before = worker_processes()
    handle = launcher.start(job("bad", **changes))
    assert wait(handle, 60) == code
    assert "error: " in handle.log_tail()
    assert wait(launcher.start(job("next")), 60) == 0
    assert worker_processes().isdisjoint(before)


def test_a_killed_process_ends_its_run_only(launcher, job) -> None:
    long = job("long", num_epochs=10_000)
    handle = launcher.start(long)
    until(lambda: (long.run_dir / "out_test.txt").exists(), 60)
    [process] = worker_processes()
    os.kill(process, signal.SIGKILL)
    assert wait(handle) == 128 + signal.SIGKILL
    assert wait(launcher.start(job("next")), 60) == 0


def test_a_worker_that_hears_nothing_is_ended(launcher, job) -> None:
    long = job("long", num_epochs=10_000)
    handle = launcher.start(long)
    until(lambda: (long.run_dir / "out_test.txt").exists(), 60)
    [process] = worker_processes()
    os.kill(process, signal.SIGSTOP)
    handle.stop()
    assert handle.poll() == 128 + signal.SIGKILL
    assert not is_alive(process)


def test_closing_ends_idle_and_busy_workers(launcher, job) -> None:
    assert wait(launcher.start(job("idle")), 60) == 0
    busy = job("busy", slot=1, num_epochs=10_000)
    launcher.start(busy)
    until(lambda: (busy.run_dir / "out_test.txt").exists(), 60)
    processes = worker_processes()
    assert len(processes) == 2
    launcher.close()
    assert not any(map(is_alive, processes))


def test_a_worker_that_cannot_stay_is_started_anew(tmp_path, job) -> None:
    engine = tmp_path / "engine"
    engine.write_text('#!/bin/sh\n[ "$1" = --capabilities ] && exit 2\necho "$@" > arguments\n')
    engine.chmod(0o755)
    launcher, _ = choose_launcher("local", worker=(str(engine),), image="", mounts=())
    each = job("run")
    assert wait(launcher.start(each)) == 0
    assert (each.run_dir / "arguments").read_text() == "--config=config.json\n"
    launcher.close()


def test_the_answers_are_all_that_serve_writes(job, tmp_path) -> None:
    import subprocess

    folder = job("run").run_dir
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "trainer.cli", "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps({"run": str(folder)}).encode() + b"\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline()) == {"exit_code": 0, "reusable": True}
    process.stdin.close()  # as a driver that died does
    assert process.stdout.read() == b""
    assert process.wait(20) in (0, 128 + signal.SIGTERM)
    process.stdout.close()
