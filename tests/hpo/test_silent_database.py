"""Who falls silent, a database or another driver, costs time and holds nobody for ever."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest
from databases import trials_of
from proxy import proxied
from support import (
    BIN,
    Run,
    clean_environment,
    optimize,
    standin_settings,
    states,
    wait_for,
    workers_of,
)

OPTIMIZE = str(BIN / "rml-optimize")
DYING = str(Path(__file__).with_name("dying_driver.py"))
SERVERS = pytest.mark.parametrize(
    "url",
    [
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mysql", marks=pytest.mark.mysql),
    ],
    indirect=True,
)


def start_on(
    url: str, folder: Path, arguments: list[str], command: tuple[str, ...] = (OPTIMIZE,)
) -> subprocess.Popen[str]:
    """Start a driver on a database; what it prints goes to `driver.log`."""
    with (folder / "driver.log").open("w") as log:
        return subprocess.Popen(
            [*command, *arguments], cwd=folder, text=True, stdout=log,
            env=clean_environment() | {"RML_STORAGE": url}, stderr=subprocess.STDOUT,
        )  # fmt: skip


def is_running(url: str) -> bool:
    return any(trial.intermediate_values for trial in trials_of(url))


@SERVERS
def test_driver_whose_database_is_silent_ends_when_asked(
    discs: Path, tmp_path: Path, url: str
) -> None:
    number = signal.SIGTERM if url.startswith("postgres") else signal.SIGINT
    worker = standin_settings(tmp_path, {"epoch_s": 0.3, "epochs": 1000})
    arguments = optimize(
        discs, "--num-trials", 3, "--worker", worker, "--jobs", 2, "--num-epochs", 1000
    )
    with proxied(url) as (through, proxy):
        process = start_on(through, tmp_path, arguments)
        wait_for(lambda: len(workers_of(tmp_path)) == 2 and is_running(url), 60)
        proxy.is_silent = True
        threading.Event().wait(1)  # until both wait for an answer
        process.send_signal(number)
        try:
            code = process.wait(20 + 10)  # 20 s, and a busy machine
        finally:
            process.kill()
    output = (tmp_path / "driver.log").read_text()
    assert code == 128 + number, output
    assert "Traceback" not in output
    wait_for(lambda: not workers_of(tmp_path), 5)


@SERVERS
def test_search_goes_on_over_new_connections_when_old_ones_are_silent(
    discs: Path, tmp_path: Path, url: str
) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.3})
    arguments = optimize(
        discs, "--num-trials", 2, "--worker", worker, "--jobs", 1, "--num-epochs", 20,
        "--pruner", "none", "--lease", 5,
    )  # fmt: skip
    with proxied(url) as (through, proxy):
        process = start_on(through, tmp_path, arguments)
        wait_for(lambda: workers_of(tmp_path) and is_running(url), 60)
        proxy.forget()
        try:
            code = process.wait(120)
        finally:
            process.kill()
    output = (tmp_path / "driver.log").read_text()
    assert code == 0, output
    trials = trials_of(url)
    assert [len(trial.intermediate_values) for trial in trials] == [20, 20]
    assert [trial.user_attrs["attempt"] for trial in trials] == [1, 1]


@SERVERS
def test_driver_stopped_inside_its_claim_holds_nobody_for_a_lease(
    discs: Path, tmp_path: Path, url: str, run: Run
) -> None:
    arguments = optimize(
        discs, "--num-trials", 4, "--worker", standin_settings(tmp_path, {}), "--jobs", 1,
        "--lease", 8,
    )  # fmt: skip
    moment = tmp_path / "moment"
    stopped = start_on(
        url, tmp_path, arguments, (sys.executable, DYING, "stopped in claim", str(moment))
    )
    try:
        wait_for(moment.exists, 60)
        other = run("rml-optimize", *arguments, RML_STORAGE=url)
        assert other.returncode == 0, other.stdout + other.stderr
        assert stopped.poll() is None  # nor has it gone on
        stopped.send_signal(signal.SIGCONT)
        code = stopped.wait(60)
    finally:
        stopped.kill()
        stopped.wait()
    output = (tmp_path / "driver.log").read_text()
    assert code == 0, output
    assert "Traceback" not in output
    assert [trial.state.name for trial in trials_of(url)] == ["COMPLETE"] * 4


def test_closed_terminal_gives_the_trials_back(discs: Path, tmp_path: Path) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.3})
    arguments = optimize(discs, "--num-trials", 2, "--worker", worker, "--num-epochs", 1000)
    master, terminal = pty.openpty()

    def take_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [OPTIMIZE, *arguments, "--jobs", "2"], cwd=tmp_path, env=clean_environment(),
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(terminal)
    try:
        wait_for(lambda: len(workers_of(tmp_path)) == 2, 60)
        os.close(master)
        code = process.wait(60)
    finally:
        process.kill()
        process.wait()
    assert code == 128 + signal.SIGHUP
    assert set(states(tmp_path).values()) == {"WAITING"}
    assert not workers_of(tmp_path)
