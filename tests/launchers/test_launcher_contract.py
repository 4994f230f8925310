"""What every launcher promises to the driver; each test runs in processes and in containers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from stand_in import until, wait, write_job

from hpo.errors import LauncherError
from hpo.launchers import Mount, Slot

ODD_NAME = "trial 1 \"a\" 'b'\n$(touch c);,:=d"
IGNORES_TERM = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize("code", [0, 2, 3, 4, 77])
def test_exit_code_is_the_workers(launcher, tmp_path, code):
    handle = launcher.start(write_job(tmp_path / "run", f"exit {code}"))
    assert wait(handle) == code
    assert handle.poll() == code
    assert not handle.oom_killed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_end_by_a_signal_is_128_and_its_number(launcher, tmp_path, number):
    handle = launcher.start(write_job(tmp_path / "run", f"kill -{int(number)} $$; sleep 60"))
    assert wait(handle) == 128 + number
    assert not handle.oom_killed


def test_worker_gets_the_contracts_arguments_and_its_folder(launcher, tmp_path):
    job = write_job(tmp_path / "run", 'echo "$#:$1"; cat config.json; touch out_test.txt')
    handle = launcher.start(job)
    assert wait(handle) == 0
    assert handle.log_tail() == "1:--config=config.json\n{}"
    assert (job.run_dir / "out_test.txt").exists()


def test_a_folder_name_with_blanks_quotes_and_newlines_is_a_folder_name(launcher, tmp_path):
    job = write_job(tmp_path / ODD_NAME, "touch done; echo fine")
    handle = launcher.start(job)
    assert (wait(handle), handle.log_tail()) == (0, "fine")
    assert (job.run_dir / "done").exists()
    assert not list(tmp_path.glob("**/c"))


def test_poll_is_none_while_the_worker_runs(launcher, tmp_path):
    handle = launcher.start(write_job(tmp_path / "run", "while [ ! -e go ]; do sleep 0.05; done"))
    time.sleep(0.3)
    assert handle.poll() is None
    (tmp_path / "run" / "go").touch()
    assert wait(handle) == 0


def test_stop_lets_the_worker_end_by_itself(launcher, tmp_path):
    script = "trap 'echo saved; exit 143' TERM; echo ready; while :; do sleep 0.05; done"
    handle = launcher.start(write_job(tmp_path / "run", script))
    until(lambda: "ready" in handle.log_tail())
    handle.stop(grace_s=5.0)
    assert handle.poll() == 143
    assert handle.log_tail(1) == "saved"


def test_stop_kills_a_worker_that_ignores_sigterm_within_a_second(launcher, tmp_path):
    handle = launcher.start(write_job(tmp_path / "run", IGNORES_TERM))
    until(lambda: "ready" in handle.log_tail())
    start = time.monotonic()
    handle.stop()
    assert time.monotonic() - start < 1.5  # 0.5 of grace; the rest is for a busy machine
    assert handle.poll() == 137
    assert not handle.oom_killed, "that was us, not the kernel"


def test_stop_twice_and_from_several_threads_is_one_stop(launcher, tmp_path):
    handle = launcher.start(write_job(tmp_path / "run", IGNORES_TERM))
    threads = [threading.Thread(target=handle.stop, args=(0.1,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.stop()
    # 143 where it was stopped before it had set its trap
    assert handle.poll() in (137, 143), handle.log_tail()


def test_stop_after_the_end_changes_nothing(launcher, tmp_path):
    handle = launcher.start(write_job(tmp_path / "run", "exit 3"))
    wait(handle)
    handle.stop()
    assert handle.poll() == 3


def test_close_stops_what_still_runs(kind, make_launcher, tmp_path):
    launcher = make_launcher(kind)
    handles = [launcher.start(write_job(tmp_path / str(i), "sleep 60")) for i in range(2)]
    launcher.close()
    assert [handle.poll() for handle in handles] == [143, 143]
    with pytest.raises(LauncherError, match="the search is ending"):
        launcher.start(write_job(tmp_path / "late", "sleep 60"))


def test_close_gives_all_workers_one_grace_period(kind, make_launcher, tmp_path):
    launcher = make_launcher(kind)
    handles = [launcher.start(write_job(tmp_path / str(i), IGNORES_TERM)) for i in range(6)]
    until(lambda: all("ready" in handle.log_tail() for handle in handles))
    start = time.monotonic()
    launcher.close()
    assert time.monotonic() - start < 2.5  # one after the other: more than 3
    assert [handle.poll() for handle in handles] == [137] * 6


def test_cpu_slot_sees_no_gpu_and_its_share_of_threads(launcher, tmp_path):
    script = 'echo "$OMP_NUM_THREADS $MKL_NUM_THREADS [${CUDA_VISIBLE_DEVICES-unset}]"'
    job = write_job(tmp_path / "run", script, slot=Slot(index=1, num_threads=3))
    handle = launcher.start(job)
    wait(handle)
    assert handle.log_tail() == "3 3 []"


def test_worker_runs_on_its_slots_cores_only(launcher, tmp_path):
    core = max(os.sched_getaffinity(0))
    slot = Slot(index=0, cores=(core,))
    handle = launcher.start(
        write_job(tmp_path / "run", "grep ^Cpus_allowed_list /proc/self/status", slot=slot)
    )
    assert wait(handle) == 0, handle.log_tail()
    assert handle.log_tail().split()[1] == str(core)
    assert os.sched_getaffinity(0) != {core} or os.cpu_count() == 1


def test_log_tail_gives_the_last_lines_fit_for_a_terminal(launcher, tmp_path):
    script = r"i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); done"
    script += r"; printf '\033[31mred\033[0m\007 10%%\r20%%\n'"
    handle = launcher.start(write_job(tmp_path / "run", script))
    assert wait(handle) == 0
    assert handle.log_tail(4) == "line 28\nline 29\nred 10%\n20%"
    assert len(handle.log_tail().splitlines()) == 20


def test_output_goes_to_the_run_folders_log_and_is_appended_to(launcher, tmp_path):
    for _ in range(2):
        wait(launcher.start(write_job(tmp_path / "run", "echo once; echo twice >&2")))
    # in a container the two streams are two pipes, so only the order within each is certain
    words = (tmp_path / "run" / "worker.log").read_text().split()
    assert sorted(words) == ["once", "once", "twice", "twice"]


def test_endless_output_is_cut_and_does_not_block_the_worker(launcher, tmp_path, monkeypatch):
    for place in ("log", "container"):
        monkeypatch.setattr(f"hpo.launchers.{place}.MAX_LOG_BYTES", 10_000)
    script = "i=0; while [ $i -lt 3000 ]; do echo 0123456789; i=$((i+1)); done; touch done"
    handle = launcher.start(write_job(tmp_path / "run", script))
    assert wait(handle) == 0
    assert "log cut after 10000 bytes" in handle.log_tail()
    assert (tmp_path / "run" / "done").exists()
    assert (tmp_path / "run" / "worker.log").stat().st_size < 10_100


def test_a_log_that_is_a_link_is_not_written_through(launcher, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("password")
    job = write_job(tmp_path / "run", "echo out")
    (job.run_dir / "worker.log").symlink_to(secret)
    with pytest.raises(LauncherError, match="cannot write"):
        launcher.start(job)
    assert secret.read_text() == "password"


def test_a_log_that_the_worker_makes_a_link_is_not_read_through(launcher, tmp_path):
    (tmp_path / "secret").write_text("password")
    script = "echo out; rm -f worker.log; ln -s ../secret worker.log"
    handle = launcher.start(write_job(tmp_path / "run", script))
    assert (wait(handle), handle.log_tail()) == (0, "")


def test_mounts_are_seen_where_worker_path_says(kind, make_launcher, tmp_path):
    mount = Mount(name="data", path=tmp_path / "my data")
    (mount.path / "train").mkdir(parents=True)
    (mount.path / "train" / "a.txt").write_text("pixels")
    launcher = make_launcher(kind, mounts=[mount])
    script = (
        f"cat '{launcher.worker_path(mount, 'train/a.txt')}'; ls {launcher.worker_path(mount)!r}"
    )
    handle = launcher.start(write_job(tmp_path / "run", script))
    assert wait(handle) == 0
    assert handle.log_tail() == "pixelstrain"


def test_many_workers_at_once_each_keep_their_own_folder(launcher, tmp_path):
    handles = {}

    def start(i: int) -> None:
        handles[i] = launcher.start(write_job(tmp_path / str(i), f"sleep 0.2; echo {i}; exit {i}"))

    threads = [threading.Thread(target=start, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [wait(handles[i]) for i in range(8)] == list(range(8))
    assert [handles[i].log_tail() for i in range(8)] == [str(i) for i in range(8)]


def test_worker_that_does_not_know_the_question_has_no_capabilities(launcher):
    assert launcher.capabilities() == frozenset()


def test_importing_the_launchers_loads_neither_torch_nor_the_sdk():
    code = "import sys, hpo.launchers.gpus; print({'torch', 'docker'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert output.stdout.strip() == "set()"
