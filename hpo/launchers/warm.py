"""Keeps worker processes that have finished a run, for the next run of the same slot.

A worker that announces `--serve` is told by JSON lines what to run (see `trainer.serve`), so
that the import of torch, the CUDA context and the warmed-up allocator are paid once per slot.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpo.launchers.base import STOP_GRACE_S, Slot
from hpo.launchers.log import read_tail
from hpo.launchers.processes import ProcessHandle

SERVE = "--serve"
# A worker hears of a stop after its present step, which takes longest on a CPU. Starting another
# one costs about as much.
STEP_GRACE_S = 3.0


class WarmWorker:
    """A process that carries out one run after the other."""

    def __init__(self, process: ProcessHandle) -> None:
        self.process = process
        self._input, self._output = process.pipes
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="warm-worker", daemon=True)
        self._reader.start()

    def send(self, request: dict[str, Any]) -> None:
        """Write one request; a worker that is gone shows in its `process`."""
        try:
            self._input.write(json.dumps(request).encode() + b"\n")
            self._input.flush()
        except OSError:
            return

    def answer(self, timeout_s: float = 0.0) -> dict[str, Any] | None:
        """Return the next answer, if it comes in time; of an ended process, all has come."""
        if self.process.poll() is not None:
            self._reader.join()
        try:
            return self._answers.get(block=timeout_s > 0, timeout=timeout_s or None)
        except queue.Empty:
            return None

    def end(self, grace_s: float = STOP_GRACE_S) -> None:
        """End the process, whatever it does."""
        self.process.stop(grace_s)
        self._reader.join()
        for pipe in (self._input, self._output):
            try:
                pipe.close()
            except OSError:  # a request that nobody read is flushed here
                continue

    def _read(self) -> None:
        for line in self._output:
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            if isinstance(answer, dict) and isinstance(answer.get("exit_code"), int):
                self._answers.put(answer)


class WarmHandle:
    """One run of a warm worker: a handle like any other."""

    def __init__(
        self, worker: WarmWorker, run_dir: Path, keep: Callable[[WarmWorker], None]
    ) -> None:
        self._worker = worker
        self._run_dir = run_dir
        self._keep = keep
        self._lock = threading.RLock()
        self._exit_code: int | None = None
        worker.send({"run": str(run_dir.absolute())})

    def poll(self) -> int | None:
        """Return the exit code once the run has ended, or its process has."""
        with self._lock:
            if self._exit_code is None:
                # first: what ends after it has answered has answered
                process_code = self._worker.process.poll()
                self._take(self._worker.answer(), process_code)
            return self._exit_code

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Ask for the run's end at its next step; end the process if that takes too long."""
        with self._lock:
            if self.poll() is not None:
                return
            self._worker.send({"stop": True})
            self._take(self._worker.answer(max(grace_s, STEP_GRACE_S)), None)
            if self._exit_code is None:
                self._worker.end(grace_s)
                self._take(self._worker.answer(), self._worker.process.poll())

    @property
    def oom_killed(self) -> bool:
        """Say whether the kernel ended the process for want of memory."""
        return self._worker.process.oom_killed

    def log_tail(self, num_lines: int = 20) -> str:
        """Return the last lines of what the run printed."""
        return read_tail(self._run_dir, num_lines)

    def _take(self, answer: dict[str, Any] | None, process_code: int | None) -> None:
        if answer is None and process_code is None:
            return
        self._exit_code = process_code if answer is None else int(answer["exit_code"])
        if answer is not None and process_code is None and answer.get("reusable") is True:
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

    def add(self, worker: WarmWorker) -> WarmWorker:
        """Note a new worker, so that it is ended with the others."""
        with self._lock:
            self._all = [other for other in self._all if other.process.poll() is None]
            self._all.append(worker)
        return worker

    def take(self, slot: Slot) -> WarmWorker | None:
        """Return the slot's idle worker if it still lives; it is nobody else's then."""
        with self._lock:
            worker = self._idle.pop(slot, None)
        if worker is not None and worker.process.poll() is not None:
            worker.end()
            return None
        return worker

    def keep(self, slot: Slot, worker: WarmWorker) -> None:
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
