"""Local workers that mean harm: whatever they leave running, the driver goes on and they end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpo.errors import LauncherError
from hpo.launchers import Launcher, Slot, WorkerJob, choose_launcher
from hpo.launchers.local import LocalLauncher
from hpo.launchers.probe import parse_capabilities

HEAD = """
import json, os, subprocess, sys, time
from pathlib import Path
def daemon(*, keeps_output):
    "Start a process of its own session, without our environment, and leave it."
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if not keeps_output:
                for stream in (0, 1, 2):
                    os.dup2(os.open(os.devnull, os.O_RDWR), stream)
            os.execve(sys.executable, [sys.executable, "-c",
                "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); "
                "time.sleep(600)", str(Path.cwd() / "pid")], {})
        os._exit(0)
    while not Path("pid").exists() or not Path("pid").read_text():
        time.sleep(0.01)
if sys.argv[1] == "--capabilities":
    print(json.dumps({"capabilities": CAPABILITIES}))
    sys.exit(0)
"""


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launcher]]:
    launchers = []

    def make(body: str, capabilities: tuple[str, ...] = ()) -> Launcher:
        script = tmp_path / "worker.py"
        script.write_text(f"CAPABILITIES = {list(capabilities)}\n{HEAD}{body}")
        launcher, _ = choose_launcher(
            "local", worker=(sys.executable, str(script)), image="", mounts=()
        )
        launchers.append(launcher)
        return launcher

    yield make
    for launcher in launchers:
        launcher.close()


def job(tmp_path: Path) -> WorkerJob:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    return WorkerJob(run_dir=run_dir, slot=Slot(index=0))


def ended(launcher: Launcher, job: WorkerJob, timeout_s: float = 20.0) -> int:
    handle = launcher.start(job)
    deadline = time.monotonic() + timeout_s
    while (code := handle.poll()) is None:
        assert time.monotonic() < deadline, "it hangs"
        time.sleep(0.01)
    return code


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize("keeps_output", [True, False])
@pytest.mark.parametrize("serves", [True, False])
def test_a_daemon_ends_with_its_worker_and_nobody_waits_for_it(
    launch: Callable[..., Launcher], tmp_path: Path, serves: bool, keeps_output: bool
) -> None:
    body = f"daemon(keeps_output={keeps_output})\nsys.exit(3)\n"
    begin = "sys.stdin.readline()\n"
    launcher = launch(begin * serves + body, ("--serve",) if serves else ())
    began = time.monotonic()
    assert ended(launcher, job(tmp_path)) == 3
    assert time.monotonic() - began < 15
    pid = int((tmp_path / "run/pid").read_text())
    assert not is_running(pid)


def test_a_worker_that_is_stopped_takes_its_daemons_along(
    launch: Callable[..., Launcher], tmp_path: Path
) -> None:
    launcher = launch(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "daemon(keeps_output=True)\nPath('ready').touch()\ntime.sleep(600)\n"
    )
    handle = launcher.start(job(tmp_path))
    while not (tmp_path / "run/ready").exists():
        time.sleep(0.01)
    began = time.monotonic()
    handle.stop()
    assert time.monotonic() - began < 5
    assert handle.poll() == 128 + 9
    assert not is_running(int((tmp_path / "run/pid").read_text()))


def test_a_worker_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    script = tmp_path / "no-program"
    script.write_bytes(b"\x7fELF nonsense")
    script.chmod(0o755)
    launcher, _ = choose_launcher("local", worker=(str(script),), image="", mounts=(), plain=True)
    with pytest.raises(LauncherError, match=r"no-program.*Exec format error"):
        launcher.start(job(tmp_path))
    launcher.close()


def test_the_exit_code_of_a_signal_is_that_of_a_shell(
    launch: Callable[..., Launcher], tmp_path: Path
) -> None:
    assert ended(launch("os.kill(os.getpid(), 11)\n"), job(tmp_path)) == 128 + 11


@pytest.mark.parametrize(
    "body",
    [
        "while True: print('x' * 10_000, flush=True)\n",
        "while True: print('{\"exit_code\": 300}', flush=True)\n",
        "print('{\"exit_code\": ' + '9' * 4000 + '}', flush=True); os._exit(7)\n",
        "print('[' * 50_000, flush=True); os._exit(7)\n",
        "os.write(1, b'x' * 100_000); os._exit(7)\n",
    ],
    ids=["endless lines", "no exit codes", "4000 digits", "brackets", "no line"],
)
def test_what_a_serving_worker_says_is_bounded(
    launch: Callable[..., Launcher], tmp_path: Path, body: str
) -> None:
    launcher = launch(body, ("--serve",))
    assert isinstance(launcher, LocalLauncher)
    assert ended(launcher, job(tmp_path)) in (7, 128 + 9, 128 + 13, 128 + 15)


def test_a_serving_worker_that_reads_nothing_does_not_stop_us(
    launch: Callable[..., Launcher], tmp_path: Path
) -> None:
    launcher = launch("time.sleep(600)\n", ("--serve",))
    handle = launcher.start(job(tmp_path))
    worker = handle._worker  # type: ignore[attr-defined]
    began = time.monotonic()
    for _ in range(3000):
        worker.send({"run": "x" * 100})
    handle.stop()
    assert time.monotonic() - began < 15


def test_brackets_are_no_capabilities() -> None:
    assert parse_capabilities("[" * 50_000) is None
    assert parse_capabilities('{"capabilities":' + "[" * 50_000) is None
    assert parse_capabilities('{"capabilities": ["device", 3, NaN]}\n') is None
    assert parse_capabilities('{"capabilities": ["device", 3]}\n') == {"device"}


def test_the_reaper_leaves_nothing_of_its_own(
    launch: Callable[..., Launcher], tmp_path: Path
) -> None:
    script = "Path('fds').write_text(' '.join(os.listdir('/proc/self/fd')))\nprint('done')\n"
    assert ended(launch(script), job(tmp_path)) == 0
    fds = {int(fd) for fd in (tmp_path / "run/fds").read_text().split()}
    assert len(fds) <= 4, "the three streams, and the folder that is listed"
