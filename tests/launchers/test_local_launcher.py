"""What only processes of this machine show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from stand_in import ANSWER, until, wait, write_job
from test_launcher_contract import is_alive

from hpo.errors import EndingError, LauncherError
from hpo.launchers import Slot, choose_launcher
from hpo.launchers.probe import parse_capabilities

DRIVER = """
import sys, time
from pathlib import Path
from hpo.launchers import Slot, WorkerJob, choose_launcher
command = ("sh", "-c", sys.argv[2])
launcher, _ = choose_launcher("local", worker=command, image="", mounts=(), warm=False)
launcher.start(WorkerJob(run_dir=Path(sys.argv[1]), slot=Slot(index=0)))
print("started", flush=True)
time.sleep(60)
"""


def read_pids(*paths):
    return [int(path.read_text()) for path in paths if path.exists() and path.read_text().strip()]


def test_stop_ends_the_whole_process_group(make_launcher, tmp_path):
    script = "trap '' TERM; sleep 60 & echo $! > a; sh -c 'echo $$ > b; sleep 60' & wait; wait"
    handle = make_launcher("local").start(write_job(tmp_path / "run", script))
    files = [tmp_path / "run" / name for name in "ab"]
    pids = until(lambda: len(read_pids(*files)) == 2 and read_pids(*files))
    handle.stop(grace_s=0.1)
    assert not any(is_alive(pid) for pid in pids)


def test_stop_reaches_groups_inside_the_session(make_launcher, tmp_path):
    # mpirun gives every rank a process group of its own
    script = "import os, time; os.setpgid(0, 0); print(os.getpid(), flush=True); time.sleep(60)"
    (tmp_path / "rank.py").write_text(script)
    command = f"'{sys.executable}' ../rank.py > a & wait"
    handle = make_launcher("local").start(write_job(tmp_path / "run", command))
    [pid] = until(lambda: read_pids(tmp_path / "run" / "a") or None)
    handle.stop(grace_s=0.2)
    assert not is_alive(pid)


def test_what_a_worker_leaves_running_is_gone_after_its_end(make_launcher, tmp_path):
    handle = make_launcher("local").start(write_job(tmp_path / "run", "sleep 60 & echo $! > a"))
    assert wait(handle) == 0
    [pid] = read_pids(tmp_path / "run" / "a")
    assert not is_alive(pid)


def test_killed_driver_leaves_no_worker(tmp_path):
    script = "sleep 60 & echo $! > a; setsid sh -c 'echo $$ > b; sleep 60' & echo $$ > c; wait"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, tmp_path, script], stdout=subprocess.PIPE
    )
    files = [tmp_path / name for name in "abc"]
    pids = until(lambda: len(read_pids(*files)) == 3 and read_pids(*files))
    assert all(is_alive(pid) for pid in pids)
    driver.kill()
    driver.communicate()
    until(lambda: not any(is_alive(pid) for pid in pids), timeout_s=5)


def test_workers_survive_the_end_of_the_thread_that_started_them(make_launcher, tmp_path):
    # slots are threads; PR_SET_PDEATHSIG would end the worker with its thread
    launcher, handles = make_launcher("local"), []
    job = write_job(tmp_path / "run", "sleep 0.5; echo alive")
    thread = threading.Thread(target=lambda: handles.append(launcher.start(job)))
    thread.start()
    thread.join()
    assert (wait(handles[0]), handles[0].log_tail()) == (0, "alive")


def test_ctrl_c_on_the_terminal_does_not_reach_the_worker(make_launcher, tmp_path):
    handle = make_launcher("local").start(write_job(tmp_path / "run", "sleep 60"))
    assert handle.poll() is None
    assert os.getpgid(handle._process.pid) == handle._process.pid != os.getpgid(0)


def test_gpu_slot_is_bound_by_uuid(make_launcher, tmp_path):
    slot = Slot(index=0, gpu_uuids=("GPU-a", "GPU-b"), num_threads=2)
    job = write_job(tmp_path / "run", "echo $CUDA_VISIBLE_DEVICES", slot=slot)
    handle = make_launcher("local").start(job)
    wait(handle)
    assert handle.log_tail() == "GPU-a,GPU-b"


def test_unknown_command_is_refused_with_the_option_to_mend():
    with pytest.raises(LauncherError, match=r"--worker: command not found.*'no-such-engine'"):
        choose_launcher("auto", worker=("no-such-engine",), image="x:1", mounts=())


def test_worker_files_are_meant_from_the_current_folder(tmp_path, monkeypatch, make_launcher):
    (tmp_path / "engine.py").write_text("import sys; print('engine', sys.argv[1:])")
    monkeypatch.chdir(tmp_path)
    launcher = make_launcher("local", worker=(sys.executable, "engine.py", "--fast"))
    handle = launcher.start(write_job(tmp_path / "run", ""))
    wait(handle)
    assert handle.log_tail() == "engine ['--fast', '--config=config.json']"


def test_several_processes_run_under_mpirun(tmp_path, monkeypatch, make_launcher):
    mpirun = tmp_path / "bin" / "mpirun"
    mpirun.parent.mkdir()
    mpirun.write_text('#!/bin/sh\necho "$1 $2"; shift 2; exec "$@"\n')
    mpirun.chmod(0o755)
    monkeypatch.setenv("PATH", str(mpirun.parent), prepend=":")
    job = write_job(tmp_path / "run", "echo rank", num_procs=4)
    handle = make_launcher("local").start(job)
    wait(handle)
    assert handle.log_tail() == "-np 4\nrank"


def test_missing_mpirun_is_said(tmp_path, monkeypatch, make_launcher):
    launcher = make_launcher("local")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LauncherError, match="needs `mpirun` on the PATH"):
        launcher.start(write_job(tmp_path / "run", "", num_procs=2))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (ANSWER, {"a.b", "c"}),
        ("exit 1", set()),
        ("exit 255", set()),  # -1 of a C program, and no signal
        ("echo rmldnn: unknown option --capabilities", set()),
        (f"{ANSWER}; exit 1", set()),
    ],
)
def test_capabilities_are_what_the_worker_answers(make_launcher, monkeypatch, answer, expected):
    monkeypatch.setenv("STAND_IN_ANSWER", answer)
    said = []
    assert make_launcher("local", warn=said.append).capabilities() == expected
    assert len(said) == (not expected)
    assert all("knows the contract only: asked what it can do, it ended" in text for text in said)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("kill -9 $$", "was ended by signal 9"),
        ("kill -15 $$", "was ended by signal 15"),
        ("exit 137", "was ended by signal 9"),  # a wrapper's word for what it ran
        ("exit 125", "was lost"),
        ("""echo '{"engine": "e", "capab'""", "gave half an answer"),
        ("true", "gave half an answer"),
    ],
)
def test_a_worker_that_dies_of_the_question_is_asked_again(
    make_launcher, monkeypatch, tmp_path, first, words
):
    mark = tmp_path / "asked"
    monkeypatch.setattr("hpo.launchers.probe.DELAYS_S", (0, 0.01))
    again = f"if [ -e {mark} ]; then {ANSWER}; else touch {mark}; {first}; fi"
    monkeypatch.setenv("STAND_IN_ANSWER", again)
    said = []
    launcher = make_launcher("local", warn=said.append)
    assert launcher.capabilities() == {"a.b", "c"}
    [warning] = said
    assert words in warning
    monkeypatch.setenv("STAND_IN_ANSWER", first)
    with pytest.raises(LauncherError, match=rf"asked 2 times .*{words}.*--plain-worker"):
        make_launcher("local").capabilities()


def test_capabilities_are_asked_once(make_launcher, monkeypatch):
    launcher = make_launcher("local")
    monkeypatch.setenv("STAND_IN_ANSWER", ANSWER)
    assert launcher.capabilities() == {"a.b", "c"}
    monkeypatch.setenv("STAND_IN_ANSWER", "exit 1")
    assert launcher.capabilities() == {"a.b", "c"}


def test_a_slow_answer_is_waited_for_with_a_word_about_it(make_launcher, monkeypatch):
    monkeypatch.setattr("hpo.launchers.probe.WORD_AFTER_S", 0.1)
    monkeypatch.setenv("STAND_IN_ANSWER", f"sleep 0.5; {ANSWER}")
    said = []
    assert make_launcher("local", warn=said.append).capabilities() == {"a.b", "c"}
    [word] = said
    assert "has not said yet what it can do; it gets up to 120 s" in word


def test_a_worker_that_hangs_at_the_question_is_an_error_unless_it_is_said_to_be_plain(
    make_launcher, monkeypatch
):
    monkeypatch.setattr("hpo.launchers.probe.WAIT_LIMIT_S", 0.3)
    monkeypatch.setenv("STAND_IN_ANSWER", "sleep 60")
    with pytest.raises(LauncherError, match=r"has not said within .*--plain-worker"):
        make_launcher("local").capabilities()
    assert make_launcher("local", plain=True).capabilities() == frozenset()


def test_waiting_for_an_answer_ends_with_the_search(make_launcher, monkeypatch):
    monkeypatch.setenv("STAND_IN_ANSWER", "sleep 60")
    stopping = threading.Event()
    launcher = make_launcher("local", stopping=stopping)
    threading.Timer(0.3, stopping.set).start()
    with pytest.raises(EndingError):
        launcher.capabilities()


def test_our_own_worker_is_never_taken_for_one_that_knows_nothing(
    make_launcher, monkeypatch, tmp_path
):
    (tmp_path / "trainer.py").write_text("raise ImportError('a broken installation')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(LauncherError, match=r"our own worker cannot run here: .*a broken inst"):
        make_launcher("local", worker=None).capabilities()


def test_a_worker_that_cannot_run_at_all_is_an_error(make_launcher, monkeypatch):
    monkeypatch.setenv("STAND_IN_ANSWER", "exec no-such-interpreter")
    with pytest.raises(LauncherError, match=r"cannot be run: .*no-such-interpreter"):
        make_launcher("local").capabilities()


def test_answer_is_found_among_warnings():
    answer = json.dumps({"engine": "x", "capabilities": ["a", 1]})
    assert parse_capabilities(f"warning\n{answer}\nbye") == {"a"}
    assert parse_capabilities('[1]\n{"capabilities": "all"}') is None


def test_kill_by_the_kernel_for_memory_is_told_from_another_kill(
    make_launcher, tmp_path, monkeypatch
):
    counts = iter([7, 8])  # the kernel's counter before and after
    monkeypatch.setattr("hpo.launchers.processes._count_oom_kills", lambda: next(counts))
    handle = make_launcher("local", warm=False).start(write_job(tmp_path / "run", "kill -9 $$"))
    assert wait(handle) == 128 + signal.SIGKILL
    assert handle.oom_killed


def test_auto_is_local_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    launcher, why = choose_launcher("auto", worker=None, image="x:1", mounts=())
    assert launcher.name == "local"
    assert why.startswith("local, because no Docker engine answers at unix://")


def test_explicit_worker_means_local_processes():
    launcher, why = choose_launcher("auto", worker=("sh",), image="x:1", mounts=())
    assert (launcher.name, why) == ("local", "local, because --worker names a command")
    with pytest.raises(LauncherError, match="drop one of the two"):
        choose_launcher("docker", worker=("sh",), image="x:1", mounts=())
