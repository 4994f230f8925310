"""Keeps workers that have finished a run, for the next run of the same slot.

A worker that announces `--serve` is told by JSON lines what to run, see
`trainer.commands.serve`, so that the import of torch, the CUDA context and the warmed-up allocator
are paid once per slot. It is a process here or a container: both have the ends of its standard
input and output.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from hpo.launchers.base import CONFIG_ARGS, Handle, Slot, WorkerJob
from hpo.launchers.log import LogLimit, read_tail
from hpo.launchers.stop_times import STEP_GRACE_S, STOP_GRACE_S
from trainer.bounded import parse_json, whole

SERVE = "--serve"
MAX_ANSWER_BYTES = 4096
MAX_SAID_BYTES = 2**20  # for one request
DRAIN_LIMIT_S = 1.0  # for what an ended worker has said
LOOK_INTERVAL_S = 0.1


def is_run(job: WorkerJob) -> bool:
    """Say whether a job is one that a warm worker takes: a training by one process.

    What sees the test images is started anew, and ends: no training shall come after it.
    """
    return job.args == CONFIG_ARGS and job.num_procs == 1 and not job.sees_tests


class ServingHandle(Handle, Protocol):
    """A worker that was started with `--serve`."""

    @property
    def pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """Return the ends of its standard input and output; who takes them closes them."""
        ...


class Places(Protocol):
    """Where a worker finds the folders of its runs."""

    @property
    def is_full(self) -> bool:
        """Whether it can take no further run."""
        ...

    def enter(self, run_dir: Path) -> str:
        """Let the worker see a run's folder; return the path as it sees it."""
        ...

    def close(self) -> None:
        """Remove what is left when the worker has ended."""
        ...


class HostPaths:
    """A process of this machine sees every folder under its own name."""

    is_full = False

    def enter(self, run_dir: Path) -> str:
        """Return the path itself."""
        return str(run_dir.absolute())

    def close(self) -> None:
        """Nothing was made."""


class WarmWorker:
    """A process or container that carries out one run after the other."""

    def __init__(self, process: ServingHandle, places: Places | None = None) -> None:
        self.process = process
        self.places = places or HostPaths()
        self._input, self._output = process.pipes
        # a run has one answer; of a worker that says more, nothing is kept
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue(maxsize=1)
        self._closing = threading.Event()
        self._num_bytes = 0  # that it has said since the last request
        self._reader = threading.Thread(target=self._read, name="warm-worker", daemon=True)
        self._reader.start()

    def send(self, request: dict[str, Any]) -> None:
        """Write one request; a worker that is gone, or reads nothing, shows in its `process`."""
        self._num_bytes = 0
        try:
            self._input.write(json.dumps(request).encode() + b"\n")
            self._input.flush()
        except OSError:
            return

    def answer(self, timeout_s: float = 0.0) -> dict[str, Any] | None:
        """Return the next answer, if it comes in time; of an ended process, all has come."""
        if self.process.poll() is not None:
            self._reader.join(DRAIN_LIMIT_S)
        try:
            return self._answers.get(block=timeout_s > 0, timeout=timeout_s or None)
        except queue.Empty:
            return None

    @property
    def is_noisy(self) -> bool:
        """Whether it says more than any worker has to, so that reading it would keep us busy."""
        return self._num_bytes > MAX_SAID_BYTES

    def end(self, grace_s: float = STOP_GRACE_S) -> None:
        """End the process, whatever it does; what it has started may still hold its output."""
        self.process.stop(grace_s)
        self._reader.join(DRAIN_LIMIT_S)
        self._closing.set()
        self._reader.join(2 * LOOK_INTERVAL_S)
        for pipe in (self._input, self._output):
            try:
                pipe.close()
            except OSError:  # a request that nobody read is flushed here
                continue
        self.places.close()

    def _read(self) -> None:
        output, begun = self._output.fileno(), b""
        poller = select.poll()
        poller.register(output, select.POLLIN)
        while not self._closing.is_set():
            if not poller.poll(LOOK_INTERVAL_S * 1000):
                continue
            chunk = os.read(output, MAX_ANSWER_BYTES)
            if not chunk:
                return
            self._num_bytes += len(chunk)
            if self.is_noisy:  # drained until somebody ends it
                continue
            *lines, begun = (begun + chunk).split(b"\n")
            begun = begun[:MAX_ANSWER_BYTES]  # a line may have no end
            for line in lines:
                self._note(line)

    def _note(self, line: bytes) -> None:
        """Take a line if it says how a run has ended."""
        try:
            answer = parse_json(line.decode())
        except ValueError:
            return
        if isinstance(answer, dict) and whole(answer.get("exit_code"), 0, 255) is not None:
            with contextlib.suppress(queue.Full):
                self._answers.put_nowait(answer)


class WarmHandle:
    """One run of a warm worker: a handle like any other."""

    def __init__(
        self, worker: WarmWorker, run_dir: Path, path: str, keep: Callable[[WarmWorker], None]
    ) -> None:
        """Let a worker that is idle begin a run, whose folder it sees at `path`."""
        self._worker = worker
        self._run_dir = run_dir
        self._log_limit = LogLimit(run_dir)
        self._keep = keep
        self._lock = threading.RLock()
        self._exit_code: int | None = None
        self._was_stopped = False
        worker.answer()  # what nobody has asked for
        worker.send({"run": path})

    def poll(self) -> int | None:
        """Return the exit code once the run has ended, or its process has."""
        with self._lock:
            if self._exit_code is None:
                self._log_limit.keep()
                if self._worker.is_noisy:
                    self._worker.end(0.0)
                # first: what ends after it has answered has answered
                process_code = self._worker.process.poll()
                self._take(self._worker.answer(), process_code)
            return self._exit_code

    def stop(self, grace_s: float = STOP_GRACE_S, *, keep_state: bool = False) -> None:
        """Ask for the run's end at its next step; end the process if that takes too long."""
        with self._lock:
            if self.poll() is not None:
                return
            self._was_stopped = True
            self._worker.send({"stop": True, "keep_state": keep_state})
            self._take(self._worker.answer(max(grace_s, STEP_GRACE_S)), None)
            if self._exit_code is None:
                self._worker.end(min(grace_s, STOP_GRACE_S))
                self._take(self._worker.answer(), self._worker.process.poll())

    @property
    def oom_killed(self) -> bool:
        """Say whether the kernel ended the process for want of memory."""
        return self._exit_code != 0 and self._worker.process.oom_killed

    def log_tail(self, num_lines: int = 20) -> str:
        """Return the last lines of what the run printed."""
        return read_tail(self._run_dir, num_lines)

    def _take(self, answer: dict[str, Any] | None, process_code: int | None) -> None:
        if answer is None and process_code is None:
            return
        self._log_limit.keep(is_last=True)
        self._exit_code = process_code if answer is None else int(answer["exit_code"])
        is_well = self._exit_code == 0 or self._was_stopped
        is_reusable = answer is not None and answer.get("reusable") is True
        if is_well and is_reusable and process_code is None and not self._worker.places.is_full:
            self._keep(self._worker)
        else:
            self._worker.end()


class WarmPool:
    """All workers of a launcher; of those that are idle, at most one per slot."""

    def __init__(self) -> None:
        self._all: list[WarmWorker] = []
        self._idle: dict[Slot, WarmWorker] = {}
        self._lock = threading.Lock()
        self._closed = False

    def start(self, job: WorkerJob, make: Callable[[], WarmWorker]) -> WarmHandle:
        """Let the slot's worker begin a run, a new one if none waits.

        Raises:
            LauncherError: no worker can be started, or it cannot be given the run's folder.
        """
        worker = self._take(job.slot) or self._add(make())
        try:
            path = worker.places.enter(job.run_dir)
        except BaseException:
            worker.end()
            raise
        return WarmHandle(worker, job.run_dir, path, partial(self._keep, job.slot))

    def _add(self, worker: WarmWorker) -> WarmWorker:
        """Note a new worker, so that it is ended with the others."""
        with self._lock:
            self._all = [other for other in self._all if other.process.poll() is None]
            self._all.append(worker)
        return worker

    def _take(self, slot: Slot) -> WarmWorker | None:
        """Return the slot's idle worker if it still lives; it is nobody else's then."""
        with self._lock:
            worker = self._idle.pop(slot, None)
        if worker is not None and (worker.is_noisy or worker.process.poll() is not None):
            worker.end()
            return None
        return worker

    def _keep(self, slot: Slot, worker: WarmWorker) -> None:
        """Let a worker wait for the slot's next run."""
        with self._lock:
            if not self._closed and slot not in self._idle:
                self._idle[slot] = worker
                return
        worker.end()

    def close(self) -> None:
        """End all of them, also what comes back later."""
        with self._lock:
            self._closed = True
            self._idle.clear()
            workers, self._all = self._all, []
        for worker in workers:
            worker.end()
