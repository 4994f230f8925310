"""Follows one container: its output, its end, its removal."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import requests
from docker.errors import DockerException, NotFound
from docker.utils.socket import frames_iter

from hpo.launchers.log import MAX_LOG_BYTES, BoundedLog, open_log, read_tail
from hpo.launchers.stop_times import KILL_CONTAINER_TIMEOUT_S, LOST_GRACE_S, STOP_GRACE_S

if TYPE_CHECKING:
    from socket import SocketIO, socket

    from docker import DockerClient
    from docker.models.containers import Container

# the SDK lets some errors of its HTTP library and of the socket through
ENGINE_ERRORS = (DockerException, requests.RequestException, OSError)

_ATTACH = {"stdout": 1, "stderr": 1, "stream": 1}
_STDOUT = 1  # of the frames that an attached stream comes in

LOST_EXIT_CODE = 125  # what `docker run` itself returns for troubles of the engine
REMOVED_EXIT_CODE = 137
_ENGINE_BACK_S = 60.0  # an engine that restarts reports the exit codes afterwards


class DockerHandle:
    """A container with one thread that follows it, so that polling costs no request.

    With `serves`, its standard output is not for the log but for `pipes`, and its input is open.
    """

    def __init__(
        self, client: DockerClient, container: Container, run_dir: Path, *, serves: bool = False
    ) -> None:
        self._client = client
        self._container = container
        self._run_dir = run_dir
        self._ended = threading.Event()
        self._stop_lock = threading.Lock()
        self._exit_code = LOST_EXIT_CODE
        self._oom_killed = False
        self._serves = serves
        self._pipes: tuple[IO[bytes], IO[bytes]] | None = None

    def start(self) -> None:
        """Attach to the output, then start, so that no line is missed."""
        assert self._container.id is not None
        log = BoundedLog(open_log(self._run_dir), MAX_LOG_BYTES)
        try:
            params = _ATTACH | ({"stdin": 1} if self._serves else {})
            output = self._client.api.attach_socket(self._container.id, params=params)
            try:
                self._container.start()
                answers = self._open_pipes(output) if self._serves else None
            except BaseException:
                _close(output)
                raise
        except BaseException:
            log.close()
            raise
        threading.Thread(
            target=self._follow, args=(output, log, answers), name="container", daemon=True
        ).start()

    @property
    def pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """Return the ends of its standard input and output, if it serves."""
        assert self._pipes is not None
        return self._pipes

    def poll(self) -> int | None:
        """Return the exit code once the container has ended and is removed."""
        return self._exit_code if self._ended.is_set() else None

    def stop(self, grace_s: float = STOP_GRACE_S, *, keep_state: bool = False) -> None:
        """Send SIGTERM, SIGKILL after `grace_s`; return when the container is removed."""
        with self._stop_lock:
            if self._ended.is_set():
                return
            self._signal("SIGTERM")
            if self._ended.wait(grace_s):
                return
            self._signal("SIGKILL")
            if not self._ended.wait(KILL_CONTAINER_TIMEOUT_S):
                remove(self._container)  # ends the following thread's wait as well
                self._ended.wait(KILL_CONTAINER_TIMEOUT_S)

    def close(self) -> None:
        """Close the pipes of one that nobody will talk to."""
        for pipe in self._pipes or ():
            pipe.close()

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

    def _open_pipes(self, output: SocketIO) -> IO[bytes]:
        """Open what `pipes` returns; return where the standard output is written to."""
        reader, writer = os.pipe()
        self._pipes = _connection(output).makefile("wb"), os.fdopen(reader, "rb")
        return os.fdopen(writer, "wb", buffering=0)

    def _follow(self, output: SocketIO, log: BoundedLog, answers: IO[bytes] | None) -> None:
        try:
            with contextlib.suppress(*ENGINE_ERRORS), answers or contextlib.nullcontext():
                for stream, chunk in frames_iter(output, tty=False):  # type: ignore[no-untyped-call]
                    if answers is not None and stream == _STDOUT:
                        answers.write(chunk)
                    else:
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
                # None is no time-out: a trial takes hours
                timeout_s = LOST_GRACE_S if self._serves else None
                self._exit_code = int(self._container.wait(timeout=timeout_s)["StatusCode"])
                self._container.reload()
            except NotFound:
                self._exit_code = REMOVED_EXIT_CODE
                log.note("the container was removed by somebody else")
            except ENGINE_ERRORS as error:
                if self._serves:  # it may live, but nobody can tell it anything any more
                    self._signal("SIGKILL")
                if time.monotonic() < deadline:
                    time.sleep(1.0)
                    continue
                log.note(f"lost the Docker engine: {error}")
            else:
                killed = bool(self._container.attrs["State"].get("OOMKilled"))
                # of one that serves, the exit code is no run's
                self._oom_killed = killed and (self._serves or self._exit_code != 0)
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
    connection = _connection(output)
    output.close()
    connection.close()


def _connection(output: SocketIO) -> socket:
    """Return the socket under an attached stream, which takes the container's standard input."""
    connection: socket = getattr(output, "_sock", None) or cast("socket", output)
    return connection
