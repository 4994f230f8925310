"""Runs our commands without the start of a Python for each: see `workers/prestarted.py`.

What a start reads (PYTHONPATH, the locale) is not seen by a fork: such a command is started anew.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from support import BIN, clean_environment

ROOT = Path(__file__).parents[1]
SERVER = Path(__file__).parent / "workers/prestarted.py"
MAINS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
# of names that the interpreter or a library reads when it starts
STARTS = ("PYTHON", "LC_", "LANG", "LD_", "OMP_", "MKL_", "KMP_")
START_S = 120


class Prestarted:
    """The process that is forked for each command; started by the first."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rml-tests-")
        self._address = str(Path(self._folder.name) / "socket")
        self._server: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._start = {k: v for k, v in clean_environment().items() if k.startswith(STARTS)}

    def can_run(self, environment: Mapping[str, str]) -> bool:
        """Whether a fork would see what it is started with."""
        return self._start == {k: v for k, v in environment.items() if k.startswith(STARTS)}

    def run(
        self,
        command: str,
        arguments: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        timeout: float,
        errors: str = "strict",
    ) -> subprocess.CompletedProcess[str]:
        """Do what `subprocess.run` does with captured output.

        Raises:
            subprocess.TimeoutExpired: the command was killed.
        """
        words = [str(BIN / command), *arguments]
        request = {
            "main": MAINS[command],
            "words": words,
            "folder": str(cwd),
            "environment": dict(environment),
        }
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            code = self._ask(json.dumps(request).encode(), [out.fileno(), err.fileno()], timeout)
            texts = []
            for file in (out, err):
                file.seek(0)
                text = file.read().decode(errors=errors)
                texts.append(text.replace("\r\n", "\n").replace("\r", "\n"))  # as `text=True` does
        if code is None:
            raise subprocess.TimeoutExpired(words, timeout, *texts)
        return subprocess.CompletedProcess(words, code, *texts)

    def _ask(self, request: bytes, files: list[int], timeout: float) -> int | None:
        self._serving()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._address)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
            connection.sendmsg([len(request).to_bytes(4)], rights)
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as answers:
                pid = int(answers.readline())
                connection.settimeout(timeout)
                try:
                    return int(answers.readline())
                except TimeoutError:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    return None

    def _serving(self) -> None:
        with self._lock:
            if self._server is None:
                self._server = subprocess.Popen(
                    [sys.executable, str(SERVER), self._address],
                    stdin=subprocess.PIPE, cwd=ROOT, env=clean_environment(),
                )  # fmt: skip
            deadline = time.monotonic() + START_S
            while not Path(self._address).exists():
                assert self._server.poll() is None, "it has ended"
                assert time.monotonic() < deadline, "it has not started"
                time.sleep(0.02)

    def close(self) -> None:
        """End it; commands that it has forked are not ended."""
        if self._server is not None and self._server.stdin is not None:
            self._server.stdin.close()
            self._server.wait(30)
        self._folder.cleanup()
