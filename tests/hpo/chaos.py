"""Kills drivers, workers, containers and the database server while they hold leases."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.models.containers import Container
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from support import BIN, clean_environment, wait_for

POSTGRES = Path(__file__).parents[2] / "scripts/ci/postgres.sh"
DYING = Path(__file__).with_name("dying_driver.py")
MOMENTS = ("in claim", "claimed")
LEASE_S = 5
PAUSE_S = 8
VICTIMS_AT_ONCE = 2
ENDS = (0, 2, -signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGHUP)
_HELD = text(
    "SELECT t.number, k.value_json, a.value_json FROM trials t "
    "JOIN trial_heartbeats h ON h.trial_id = t.trial_id "
    "JOIN trial_user_attributes k ON k.trial_id = t.trial_id AND k.key = 'lease' "
    "JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a.key = 'attempt' "
    "WHERE t.state = 'RUNNING' AND h.heartbeat > now() - interval '5 seconds'"
)


class Server:
    """A PostgreSQL server of our own, with fsync on, that survives SIGKILL."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rml-chaos-"))
        self.folder.chmod(0o755)  # it runs as a user of its own
        self.url = self._start()
        self._port = re.findall(r":(\d+)/", self.url)[0]

    def kill(self) -> None:
        """Kill the server and start it again on the same port."""
        pid_file = self.folder / "data/postmaster.pid"
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
        wait_for(lambda: not self._is_alive(), 60)
        # The old pid may look alive where nobody reaps zombies.
        for lock in (pid_file, *(self.folder / "sock").glob(".s.*.lock")):
            lock.unlink(missing_ok=True)
        assert self._start(PORT=self._port) == self.url

    def restart(self) -> None:
        """End all sessions at once, and start again on the same port after a while."""
        subprocess.run([POSTGRES, "stop", self.folder], check=True)
        time.sleep(1)
        assert self._start(PORT=self._port) == self.url

    def close(self) -> None:
        """Stop the server and remove its files."""
        subprocess.run([POSTGRES, "stop", self.folder], check=True)
        shutil.rmtree(self.folder)

    def _start(self, **settings: str) -> str:
        environment = os.environ | {"FSYNC": "on"} | settings
        return subprocess.run(
            [POSTGRES, "start", self.folder], env=environment, check=True, text=True,
            stdout=subprocess.PIPE,
        ).stdout.strip()  # fmt: skip

    def _is_alive(self) -> bool:
        return any(folder == self.folder / "data" for _, folder in current_folders())


def current_folders() -> list[tuple[int, Path]]:
    """Return the living processes with their current folders."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((int(entry.name), (entry / "cwd").readlink()))
            except OSError:
                continue
    return found


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what a folder is by, in whatever namespace."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@dataclass
class Driver:
    """A driver that was started, and until when it sleeps."""

    process: subprocess.Popen[bytes]
    kind: str
    log: Path
    moment: str | None = None
    wakes_at: float | None = None


class Chaos:
    """Drivers of one study, and what kills them.

    Attributes:
        quotas: how many of each kind have to be killed before the study may end.
        num_trials: N; it grows whenever the study would end before that.
    """

    def __init__(
        self, folder: Path, server: Server, arguments: dict[str, list[str]], seed: int,
        quotas: dict[str, int],
    ) -> None:  # fmt: skip
        self.folder, self.server, self.arguments, self.quotas = folder, server, arguments, quotas
        self.kills: Counter[str] = Counter()
        self.num_trials = 20
        self._rng = random.Random(seed)
        self._engine = create_engine(server.url, pool_pre_ping=True)
        self._docker = docker.from_env()
        self._drivers: list[Driver] = []
        self._num_started = 0
        self._kill_one_of: dict[str, Callable[[dict[int, tuple[int, int]]], bool]] = {
            "driver": self._kill_driver,
            "worker": self._kill_worker,
            "container": self._kill_container,
            "database": self._kill_database,
            "pause": self._pause_driver,
        }

    def run(self, limit_s: float) -> None:
        """Kill until all quotas are met, then let the study end."""
        deadline = time.monotonic() + limit_s
        for kind in self.arguments:
            for _ in range(2):
                self._start(kind)
        local = next(iter(self.arguments))
        for moment in MOMENTS:
            self._start(local, moment)
        while self._unmet() or not all((self.folder / moment).exists() for moment in MOMENTS):
            assert time.monotonic() < deadline, f"only {dict(self.kills)}"
            time.sleep(self._rng.uniform(0.2, 1.0))
            self._look_after_drivers()
            self._kill_something()
        for moment in MOMENTS:
            self.kills[f"driver, {moment}"] += 1
        while self._drivers:
            assert time.monotonic() < deadline, "the study does not end"
            self._look_after_drivers(may_end=True)
            time.sleep(0.1)

    def close(self) -> None:
        """End what still runs after a failure."""
        for driver in self._drivers:
            driver.process.kill()
            driver.process.wait()
        for container in self.containers():
            container.remove(force=True)
        self._docker.close()
        self._engine.dispose()

    def containers(self) -> list[Container]:
        """Return the containers that work below this folder, in whatever state."""
        return [
            container
            for container in self._docker.containers.list(all=True, ignore_removed=True)
            if any(self._is_here(mount["Source"]) for mount in container.attrs["Mounts"])
        ]

    def workers(self) -> dict[int, tuple[int, int]]:
        """Return local workers: process -> trial and attempt."""
        found = {pid: self._trial(folder) for pid, folder in current_folders()}
        return {pid: trial for pid, trial in found.items() if trial is not None}

    def url_of(self, kind: str) -> str:
        """Return the database's URL for a kind of drivers."""
        return self.server.url

    def _start(self, kind: str, moment: str | None = None) -> None:
        command = [str(BIN / "rml-optimize")]
        if moment is not None:
            command = [sys.executable, str(DYING), moment, str(self.folder / moment)]
        self._num_started += 1
        log = self.folder / f"driver-{self._num_started}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *self.arguments[kind], "--num-trials", str(self.num_trials)],
                cwd=self.folder, env=clean_environment() | {"RML_STORAGE": self.url_of(kind)},
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._drivers.append(Driver(process, kind, log, moment))

    def _look_after_drivers(self, *, may_end: bool = False) -> None:
        """Wake who has slept, start anew who was killed, and let nobody end too early."""
        for driver in list(self._drivers):
            if driver.wakes_at is not None and time.monotonic() > driver.wakes_at:
                driver.process.send_signal(signal.SIGCONT)
                driver.wakes_at = None
            code = driver.process.poll()
            if code is None:
                continue
            text = driver.log.read_text()
            assert code in ENDS, f"exit code {code}:\n{text[-6000:]}"
            # 2: the database was away for longer than a driver that starts waits.
            assert code != 2 or "cannot be reached" in text, text[-6000:]
            assert "Traceback" not in text, text[-6000:]
            self._drivers.remove(driver)
            if code == 0 and not may_end:
                self.num_trials += 10
            if code != 0 or not may_end:
                self._start(driver.kind, self._moment_to_come(driver.moment))

    def _moment_to_come(self, moment: str | None) -> str | None:
        """Return the moment at which a driver had to die, if another death came first."""
        return moment if moment and not (self.folder / moment).exists() else None

    def _unmet(self) -> list[str]:
        return [kind for kind, quota in self.quotas.items() if self.kills[kind] < quota]

    def _kill_something(self) -> None:
        kinds = self._unmet()
        self._rng.shuffle(kinds)
        num_killed = 0
        for kind in kinds:
            held = self._held()
            if held and self._kill_one_of[kind](held):
                self.kills[kind] += 1
                num_killed += 1
            if num_killed == VICTIMS_AT_ONCE:
                return

    def _held(self) -> dict[int, tuple[int, int]]:
        """Return the leases as the database has them: trial -> attempt and driver."""
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(_HELD).all()
        except SQLAlchemyError:
            return {}
        # host/boot.namespace.PID.start/…
        pids = {
            number: int(json.loads(token).split("/")[1].split(".")[2]) for number, token, _ in rows
        }
        return {number: (int(attempt), pids[number]) for number, _, attempt in rows}

    def _holders(self, held: dict[int, tuple[int, int]]) -> list[Driver]:
        pids = {pid for _, pid in held.values()}
        awake = [driver for driver in self._drivers if driver.wakes_at is None]
        return [driver for driver in awake if driver.process.pid in pids]

    def _kill_driver(self, held: dict[int, tuple[int, int]]) -> bool:
        holders = self._holders(held)
        if holders:
            self._rng.choice(holders).process.kill()
        return bool(holders)

    def _pause_driver(self, held: dict[int, tuple[int, int]]) -> bool:
        holders = self._holders(held)
        if holders:
            driver = self._rng.choice(holders)
            driver.process.send_signal(signal.SIGSTOP)
            driver.wakes_at = time.monotonic() + PAUSE_S
        return bool(holders)

    def _kill_worker(self, held: dict[int, tuple[int, int]]) -> bool:
        current = {(number, attempt) for number, (attempt, _) in held.items()}
        victims = [pid for pid, trial in self.workers().items() if trial in current]
        if victims:
            os.kill(self._rng.choice(victims), signal.SIGKILL)
        return bool(victims)

    def _kill_container(self, held: dict[int, tuple[int, int]]) -> bool:
        current = {(number, attempt) for number, (attempt, _) in held.items()}
        running = [c for c in self.containers() if c.status == "running"]
        try:
            victims = [c for c in running if self._trial_of(c, current) is not None]
            if not victims:
                return False
            self._rng.choice(victims).kill("SIGKILL")
        except docker.errors.APIError:  # it has just ended by itself
            return False
        return True

    def _kill_database(self, held: dict[int, tuple[int, int]]) -> bool:
        self.server.kill()
        return True

    def _trial_of(
        self, container: Container, current: set[tuple[int, int]]
    ) -> tuple[int, int] | None:
        """Return the trial whose folder a process of the container is in, under whatever name."""
        attempts: dict[tuple[int, int] | None, tuple[int, int]] = {}
        for number, attempt in current:
            for folder in self.folder.glob(f"runs/*/trial_{number:05d}/attempt_{attempt}"):
                attempts[_identity(folder)] = number, attempt
        processes = container.top()["Processes"] or ()
        attempts.pop(None, None)  # of one that begins just now
        places = [_identity(Path(f"/proc/{process[1]}/cwd")) for process in processes]
        return next((attempts[place] for place in places if place in attempts), None)

    def _is_here(self, folder: str) -> bool:
        """Say whether it is a folder of runs: the data may be anywhere."""
        return Path(folder).is_relative_to(self.folder / "runs")

    def _trial(self, folder: Path) -> tuple[int, int] | None:
        if not folder.is_relative_to(self.folder):
            return None
        match = re.search(r"trial_(\d+)/attempt_(\d+)$", str(folder))
        return (int(match[1]), int(match[2])) if match else None
