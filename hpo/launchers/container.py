"""Follows one container: its output, its end, its removal."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import requests
from docker.errors import DockerException, NotFound
from docker.utils.socket import frames_iter

from hpo.launchers.base import STOP_GRACE_S
from hpo.launchers.log import MAX_LOG_BYTES, BoundedLog, open_log, read_tail

if TYPE_CHECKING:
    from socket import SocketIO

    from docker import DockerClient
    from docker.models.containers import Container

# the SDK lets some errors of its HTTP library and of the socket through
ENGINE_ERRORS = (DockerException, requests.RequestException, OSError)

_ATTACH = {"stdout": 1, "stderr": 1, "stream": 1}

LOST_EXIT_CODE = 125  # what `docker run` itself returns for troubles of the engine
REMOVED_EXIT_CODE = 137
_ENGINE_BACK_S = 60.0  # an engine that restarts reports the exit codes afterwards
_KILL_TIMEOUT_S = 10.0


class DockerHandle:
    """A container with one thread that follows it, so that polling costs no request."""

    def __init__(self, client: DockerClient, container: Container, run_dir: Path) -> None:
        self._client = client
        self._container = container
        self._run_dir = run_dir
        self._ended = threading.Event()
        self._stop_lock = threading.Lock()
        self._exit_code = LOST_EXIT_CODE
        self._oom_killed = False

    def start(self) -> None:
        """Attach to the output, then start, so that no line is missed."""
        assert self._container.id is not None
        log = BoundedLog(open_log(self._run_dir), MAX_LOG_BYTES)
        try:
            output = self._client.api.attach_socket(self._container.id, params=_ATTACH)
            try:
                self._container.start()
            except BaseException:
                _close(output)
                raise
        except BaseException:
            log.close()
            raise
        threading.Thread(
            target=self._follow, args=(output, log), name="container", daemon=True
        ).start()

    def poll(self) -> int | None:
        """Return the exit code once the container has ended and is removed."""
        return self._exit_code if self._ended.is_set() else None

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Send SIGTERM, SIGKILL after `grace_s`; return when the container is removed."""
        with self._stop_lock:
            if self._ended.is_set():
                return
            self._signal("SIGTERM")
            if self._ended.wait(grace_s):
                return
            self._signal("SIGKILL")
            if not self._ended.wait(_KILL_TIMEOUT_S):
                remove(self._container)  # ends the following thread's wait as well
                self._ended.wait(_KILL_TIMEOUT_S)

    @property
    def oom_killed(self) -> bool:
        """Say whether a process of the container was killed at its memory limit."""
        return self._oom_killed

    def log_tail(self, num_lines: int = 20) -> str:
        """Return the last lines of what it printed."""
        return read_tail(self._run_dir, num_lines)

    def _signal(self, name: str) -> None:
        with contextlib.suppress(*ENGINE_ERRORS):  # it may have ended by itself meanwhile
            self._container.kill(name)

    def _follow(self, output: SocketIO, log: BoundedLog) -> None:
        try:
            with contextlib.suppress(*ENGINE_ERRORS):
                for _, chunk in frames_iter(output, tty=False):  # type: ignore[no-untyped-call]
                    log.write(chunk)
            _close(output)
            self._wait(log)
            remove(self._container, patience_s=_ENGINE_BACK_S)
        finally:
            log.close()
            self._ended.set()

    def _wait(self, log: BoundedLog) -> None:
        """Take over exit code and memory flag; bridge a restart of the engine."""
        deadline = time.monotonic() + _ENGINE_BACK_S
        while True:
            try:
                # without a time-out of its own, wait() has none: a trial takes hours
                self._exit_code = int(self._container.wait()["StatusCode"])
                self._container.reload()
            except NotFound:
                self._exit_code = REMOVED_EXIT_CODE
                log.note("the container was removed by somebody else")
            except ENGINE_ERRORS as error:
                if time.monotonic() < deadline:
                    time.sleep(1.0)
                    continue
                log.note(f"lost the Docker engine: {error}")
            else:
                killed = bool(self._container.attrs["State"].get("OOMKilled"))
                self._oom_killed = killed and self._exit_code != 0
            return


def remove(container: Container, patience_s: float = 0.0) -> None:
    """Remove a container in whatever state it is; wait so long for an engine that restarts."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            container.remove(force=True, v=True)
        except NotFound:
            return
        except ENGINE_ERRORS:
            if time.monotonic() >= deadline:
                return
            time.sleep(1.0)
        else:
            return


def _close(output: SocketIO) -> None:
    """Close an attached stream and the socket under it, which the SDK would leave open."""
    connection = getattr(output, "_sock", None)
    output.close()
    if connection is not None:
        connection.close()
