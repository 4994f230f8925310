"""Makes the folder of an attempt at a trial, with the state of an earlier one to resume from."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.folders import WorkFolders
from hpo.worker_files import copy_file, remove
from trainer import rundir
from trainer.bounded import whole
from trainer.errors import DataError
from trainer.keypath import get_path

_LOGS = (rundir.TRAIN_LOG, rundir.METRICS, rundir.TEST_LOG)
MAX_COPIES = 10  # of a state that its worker goes on replacing: then the trial starts anew
MAX_EPOCHS = 10**6
MAX_ENTRIES = 20_000  # of a folder of checkpoints
MAX_STATE_BYTES = 64 * 2**30  # of all checkpoints of an attempt
MAX_LOG_BYTES = 2**30  # of a train log, which has a line for each step
_CHECKPOINT = re.compile(r"model_checkpoint_(\d{1,7})\.pt", re.ASCII)


@dataclass(frozen=True)
class AttemptFolder:
    """Where a worker runs.

    Attributes:
        log: its test log, read as far as the earlier attempt has written it.
        resumed: the attempt that it resumes, None if it starts anew.
        evaluated: score by epoch of that attempt.
    """

    run_dir: Path
    log: rundir.TestLogReader
    resumed: int | None = None
    evaluated: Mapping[int, float] = field(default_factory=dict)


def prepare_attempt(
    folders: WorkFolders,
    number: int,
    attempt: int,
    config: Mapping[str, Any],
    *,
    resume: bool = True,
    stopping: threading.Event | None = None,
) -> AttemptFolder:
    """Make the folder with its config; an older one of that name is kept aside.

    The state of an earlier attempt is copied if its worker keeps one and had the very same
    config: paths differ between containers and processes, and may between nodes.

    Raises:
        OSError: the disk is full, say.
        EndingError: `stopping` was set meanwhile.
    """
    run_dir = folders.attempt(number, attempt)
    if run_dir.exists():
        run_dir.rename(run_dir.with_name(f"{run_dir.name}.{time.time_ns()}.old"))
    run_dir.mkdir(parents=True)
    text = rundir.dump_config(config)
    rundir.write_atomic(run_dir / rundir.CONFIG, text)
    num_epochs = whole(get_path(config, "num_epochs"), 0, MAX_EPOCHS)
    log = rundir.TestLogReader(run_dir / rundir.TEST_LOG, num_epochs=num_epochs, is_score=True)
    if resume and get_path(config, "checkpoints.resume"):
        for earlier in range(attempt - 1, 0, -1):
            state = _State(folders.attempt(number, earlier), run_dir, num_epochs, stopping)
            if state.carry_over(text):
                evaluated = {entry.epoch: entry.accuracy for entry in log.read_new()}
                return AttemptFolder(run_dir, log, earlier, evaluated)
    return AttemptFolder(run_dir, log)


@dataclass(frozen=True)
class _State:
    """What one attempt may leave another to go on from.

    All of it is its worker's: files are copied up to a size each, and in all.
    """

    earlier: Path
    run_dir: Path
    num_epochs: int | None
    stopping: threading.Event | None

    def carry_over(self, config: str) -> bool:
        """Copy what a worker resumes from; say whether it is there.

        The earlier worker may still run, if its driver was only cut off: the state is copied again
        if it was replaced meanwhile, for its best checkpoint may have gone with it.
        """
        expected = config.encode()
        if rundir.read_untrusted(self.earlier / rundir.CONFIG, len(expected) + 1) != expected:
            return False
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY
            # held open, because a worker that still runs could make its name a link
            source = os.open(self.earlier / rundir.CHECKPOINTS, flags)
        except OSError:
            return False
        is_copied = False
        try:
            is_copied = any(self._copy(source) for _ in range(MAX_COPIES))
        except DataError:  # of a state that is none
            is_copied = False
        finally:
            os.close(source)
            if not is_copied:  # a full disk must not be left full
                remove(self.run_dir / rundir.CHECKPOINTS)
                for name in _LOGS:
                    (self.run_dir / name).unlink(missing_ok=True)
        return is_copied

    def _copy(self, source: int) -> bool:
        """Copy logs, checkpoints and state; say whether the state stayed the same meanwhile.

        Raises:
            DataError: the checkpoints are more or larger than any that we take.
        """
        seen = _identity(rundir.RESUME, source)
        if seen is None:
            return False
        target = self.run_dir / rundir.CHECKPOINTS
        remove(target)
        target.mkdir()
        for name in _LOGS:
            with contextlib.suppress(DataError):  # the log of a worker that has written none
                self._take(self.earlier / name, self.run_dir / name, max_bytes=MAX_LOG_BYTES)
        num_bytes = 0
        for name in self._checkpoints(source):
            num_bytes += self._take(Path(name), target / name, folder=source)
            if num_bytes > MAX_STATE_BYTES:
                raise DataError(f"{self.earlier}: its checkpoints are too large")
        # The state last and in one step: whoever takes over finds all of it or nothing.
        aside = target / f".{rundir.RESUME}.tmp"
        self._take(Path(rundir.RESUME), aside, folder=source)
        if _identity(rundir.RESUME, source) == seen:
            aside.replace(target / rundir.RESUME)
            return True
        return False

    def _take(self, source: Path, target: Path, **options: Any) -> int:
        return copy_file(source, target, stopping=self.stopping, **options)

    def _checkpoints(self, source: int) -> list[str]:
        """Return the names of regular checkpoints of the trial's epochs, in what is held open.

        Raises:
            DataError: the folder has more entries than any of ours.
        """
        names = []
        with os.scandir(source) as entries:
            for number, entry in enumerate(entries):
                if number == MAX_ENTRIES:
                    raise DataError(f"{self.earlier}: more than {MAX_ENTRIES} checkpoints")
                match = _CHECKPOINT.fullmatch(entry.name)
                is_epoch = match and (self.num_epochs is None or int(match[1]) <= self.num_epochs)
                if is_epoch and entry.is_file(follow_symlinks=False):
                    names.append(entry.name)
        return sorted(names)


def _identity(name: str, folder: int) -> tuple[int, int] | None:
    """Return what changes when a file is replaced; None if it is no regular file."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None
