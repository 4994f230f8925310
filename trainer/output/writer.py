"""Writes what each epoch leaves, in a thread of its own and in one order.

That order is what others rely on: the best checkpoint, then its line in the test log (who reads
of an epoch there finds its checkpoint), then the state to go on from, and only then is removed
what neither the log nor the state on the disk names.

Where the disk is slower than training, epochs wait here together: of best checkpoints that nobody
has begun to write only the last one is, before the lines of all; of states likewise. So training
waits for the disk only if every checkpoint is kept.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from trainer.errors import DivergedError, StopRequestedError
from trainer.output.checkpoints import write_checkpoint
from trainer.output.files import EvaluationRecord, OutputFiles
from trainer.output.snapshot import Snapshot, Snapshots
from trainer.stopping import sigterm_held_back, stop_if_requested

MAX_WAITING_LINES = 1000
POLL_INTERVAL_S = 0.1  # between looks at a request to stop, while waiting for the disk


@dataclass(frozen=True, kw_only=True)
class EpochOutput:
    """What one epoch leaves: whatever of it the config asks for.

    Attributes:
        checkpoint: a file and what it shall hold.
        record: for the logs.
        state: what resume.pt shall hold, if it is written after this epoch.
        is_state_due: whether it is.
    """

    checkpoint: tuple[Path, dict[str, Any]] | None = None
    record: EvaluationRecord | None = None
    state: dict[str, Any] | None = None
    is_state_due: bool = False


class Writer:
    """The thread, from the first epoch to the end of the `with` block.

    That end depends on the error that leads there. Without one, everything that was put is
    written, and the last state if `writes_last_state`; with one, the last state in any case,
    for whoever goes on. A run that diverged has nobody go on with it. Of a run that is stopped
    without keeping its state nothing more is wanted, so only a file that was begun is finished.
    """

    def __init__(
        self,
        files: OutputFiles,
        state_path: Path | None,
        device: torch.device,
        *,
        keeps_one: bool,
        kept: Path | None = None,
        writes_last_state: bool = True,
    ) -> None:
        """Begin without a thread.

        Args:
            files: the run's logs, which nobody else appends evaluations to meanwhile.
            state_path: where states go; None if none are put.
            device: where what is to be written lies.
            keeps_one: each checkpoint replaces the one before.
            kept: the checkpoint that the state on the disk names.
            writes_last_state: at the end of a run that is done.
        """
        self.state_cost_s = 0.0  # of a core, for the last state that was written
        self._files = files
        self._weights, self._states = Snapshots(device), Snapshots(device)
        self._state_path = state_path
        self._keeps_one = keeps_one
        self._writes_last_state = writes_last_state
        self._on_disk = [] if kept is None else [kept]  # those that will be replaced
        self._named = kept  # by the state on the disk

        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()  # guards all below
        self._checkpoint: tuple[Path, Snapshot] | None = None
        self._records: list[EvaluationRecord] = []
        self._state: Snapshot | None = None
        self._is_state_due = False
        self._is_closing = False
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with sigterm_held_back():
            is_stopped = isinstance(error, StopRequestedError)
            with self._changed:
                self._is_closing = True
                if isinstance(error, StopRequestedError) and not error.keep_state:
                    self._checkpoint = self._state = None
                    self._records = []
                elif isinstance(error, DivergedError):
                    self._state = None
                elif error is not None or self._writes_last_state:
                    self._is_state_due = True
                self._changed.notify_all()
            if self._thread is not None:
                self._thread.join()
            if error is None and self._failure is None and not self._writes_last_state:
                self._forget_state()
            self._weights.close()
            self._states.close()
        if self._failure is not None and (error is None or is_stopped):
            raise self._failure

    def free_device_memory(self) -> bool:
        """Give back what copies take of the device; return whether there was any."""
        freed = [snapshots.free_device_memory() for snapshots in (self._weights, self._states)]
        return any(freed)

    def raise_failure(self) -> None:
        """Raise what the thread has failed with, after which it writes nothing more."""
        if self._failure is not None:
            raise self._failure

    def put(self, output: EpochOutput) -> None:
        """Copy what an epoch leaves, to write it while the next one runs.

        Waits where the disk is so far behind that one more epoch would not be held in memory.

        Raises:
            TrainerError, OSError: what was put before could not be written.
        """
        with self._changed:
            while self._failure is None and self._is_full():
                self._changed.wait(POLL_INTERVAL_S)
                stop_if_requested()
        self.raise_failure()
        with sigterm_held_back():  # the last state is overwritten meanwhile
            self._take(output)
        if self._thread is None:
            # daemon: a main thread that was interrupted twice does not wait for a dead disk
            self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
            self._thread.start()

    def _is_full(self) -> bool:
        must_not_replace = self._checkpoint is not None and not self._keeps_one
        return must_not_replace or len(self._records) >= MAX_WAITING_LINES

    def _take(self, output: EpochOutput) -> None:
        checkpoint = state = None
        if output.checkpoint is not None:
            path, content = output.checkpoint
            checkpoint = path, self._weights.take(content)
        if output.state is not None:
            # Beside the one that waits, which is lost if there is no memory for this one.
            state = self._states.take(output.state)
        with self._changed:
            replaced = []
            if checkpoint is not None:
                if self._checkpoint is not None:
                    replaced.append(self._checkpoint[1])
                self._checkpoint = checkpoint
            if output.record is not None:
                self._records.append(output.record)
            if self._state is not None:
                replaced.append(self._state)
            self._state = state
            self._is_state_due |= output.is_state_due
            for snapshot in replaced:
                snapshot.release()
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while self._write_next():
                pass
        except BaseException as error:  # noqa: BLE001  # raised again in the main thread
            with self._changed:
                self._failure = error
                self._checkpoint = self._state = None
                self._records = []
                self._changed.notify_all()

    def _write_next(self) -> bool:
        """Write what has been put since the last time; say whether more may come."""
        with self._changed:
            while not (self._checkpoint or self._records or self._is_state_ready()):
                if self._is_closing:
                    return False
                self._changed.wait()
            checkpoint, records = self._checkpoint, self._records
            self._checkpoint, self._records = None, []
            state = None
            if self._is_state_ready():
                state, self._state, self._is_state_due = self._state, None, False
            self._changed.notify_all()
        if checkpoint is not None:
            self._write_weights(*checkpoint)
        self._files.add_evaluations(records)
        if state is not None:
            self._write_state(state)
        self._remove_replaced()
        return True

    def _is_state_ready(self) -> bool:
        return self._state is not None and self._is_state_due

    def _write_weights(self, path: Path, snapshot: Snapshot) -> None:
        write_checkpoint(snapshot.content(), path)
        snapshot.release()
        if self._keeps_one:
            self._on_disk = [other for other in self._on_disk if other != path] + [path]

    def _write_state(self, snapshot: Snapshot) -> None:
        assert self._state_path is not None
        content = snapshot.content()
        kept = content["keeper"][1]
        content["replaced"] = [str(path) for path in self._on_disk if str(path) != kept]
        began = time.thread_time()
        write_checkpoint(content, self._state_path)
        self.state_cost_s = time.thread_time() - began
        snapshot.release()
        self._named = None if kept is None else Path(kept)

    def _forget_state(self) -> None:
        """Remove the state of a run that is done: it is of an earlier epoch."""
        if self._state_path is not None:
            self._state_path.unlink(missing_ok=True)
            self._named = None
            self._remove_replaced()

    def _remove_replaced(self) -> None:
        for path in self._on_disk[:-1]:
            if path != self._named:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
                self._on_disk.remove(path)
