"""Makes the folder of an attempt at a trial, with the state of an earlier one to resume from."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hpo.folders import WorkFolders
from hpo.objective import Objective
from hpo.run.score_log import ScoreLog
from hpo.worker_files import copy_file, remove
from trainer import rundir
from trainer.bounded import parse_json, whole
from trainer.errors import DataError
from trainer.keypath import copy_config, get_path

_LOGS = (rundir.TRAIN_LOG, rundir.METRICS, rundir.TEST_LOG)
MAX_COPIES = 10  # of a state that its worker goes on replacing: then the trial starts anew
MAX_ENTRIES = 20_000  # of a folder of checkpoints
MAX_STATE_BYTES = 64 * 2**30  # of all checkpoints of an attempt
MAX_LOG_BYTES = 2**30  # of a train log, which has a line for each step
_CHECKPOINT = re.compile(r"model_checkpoint_(\d{1,7})\.pt", re.ASCII)


@dataclass(frozen=True)
class AttemptFolder:
    """Where a worker runs.

    Attributes:
        log: its scores, read as far as the earlier attempt has written it.
        num_epochs: of the run, as far as its config says.
        resumed: the attempt that it resumes, None if it starts anew.
        evaluated: score by epoch of that attempt.
    """

    run_dir: Path
    log: ScoreLog
    num_epochs: int | None
    resumed: int | None = None
    evaluated: Mapping[int, float] = field(default_factory=dict)

    def read_by(self, objective: Objective, asked: Mapping[str, Any]) -> AttemptFolder:
        """Return it read by that objective, and with what the worker's settings should be."""
        log = ScoreLog(self.run_dir, self.num_epochs, objective, asked)
        evaluated = {} if self.resumed is None else _read(log)
        return replace(self, log=log, evaluated=evaluated)


def prepare_attempt(
    folders: WorkFolders,
    number: int,
    attempt: int,
    config: Mapping[str, Any],
    *,
    resume: bool = True,
    moves: bool = False,
    stopping: threading.Event | None = None,
) -> AttemptFolder:
    """Make the folder with its config; an older one of that name is kept aside.

    The state of an earlier attempt is copied if its worker keeps one and had the very same
    config, but for where it pauses: paths differ between containers and processes, and may
    between nodes. It is moved if that worker is known to have ended (`moves`).

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
    num_epochs = whole(get_path(config, "num_epochs"), 0, rundir.MAX_EPOCHS)
    log = ScoreLog(run_dir, num_epochs)
    if resume and get_path(config, "checkpoints.resume"):
        for earlier in range(attempt - 1, 0, -1):
            state = _State(folders.attempt(number, earlier), run_dir, num_epochs, stopping)
            if state.carry_over(config, moves=moves):
                return AttemptFolder(run_dir, log, num_epochs, earlier, _read(log))
    return AttemptFolder(run_dir, log, num_epochs)


def _read(log: ScoreLog) -> dict[int, float]:
    return {entry.epoch: entry.accuracy for entry in log.read_new()}


@dataclass(frozen=True)
class _State:
    """What one attempt may leave another to go on from.

    All of it is its worker's: files are copied up to a size each, and in all.
    """

    earlier: Path
    run_dir: Path
    num_epochs: int | None
    stopping: threading.Event | None

    def carry_over(self, config: Mapping[str, Any], *, moves: bool) -> bool:
        """Copy or move what a worker resumes from; say whether it is there.

        The earlier worker may still run, if its driver was only cut off: the state is copied again
        if it was replaced meanwhile, for its best checkpoint may have gone with it.
        """
        limit = 2 * len(rundir.dump_config(config)) + 1000  # where it pauses may have more digits
        stored = rundir.read_untrusted(self.earlier / rundir.CONFIG, limit)
        if not _is_same_run(stored, config):
            return False
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY
            # held open, because a worker that still runs could make its name a link
            source = os.open(self.earlier / rundir.CHECKPOINTS, flags)
        except OSError:
            return False
        is_there = False
        try:
            is_there = moves and self._move(source)
            is_there = is_there or any(self._copy(source) for _ in range(MAX_COPIES))
        except DataError:  # of a state that is none
            is_there = False
        finally:
            os.close(source)
            if not is_there:  # a full disk must not be left full
                remove(self.run_dir / rundir.CHECKPOINTS)
                for name in _LOGS:
                    (self.run_dir / name).unlink(missing_ok=True)
        return is_there

    def _move(self, source: int) -> bool:
        """Copy the logs and move the checkpoints with the state in one step; say if it could.

        Whoever takes over from us finds them in one of the two folders, and logs and config in
        both.

        Raises:
            DataError: the checkpoints are more than any that we take.
        """
        if _identity(rundir.RESUME, source) is None:
            return False
        needed = {rundir.RESUME, *self._checkpoints(source)}
        self._copy_logs()
        target = self.run_dir / rundir.CHECKPOINTS
        try:
            (self.earlier / rundir.CHECKPOINTS).rename(target)
            if not os.path.samestat(target.lstat(), os.fstat(source)):
                target.unlink()  # a link that somebody put in its place
                return False
        except OSError:
            return False
        for name in os.listdir(source):  # of what is held open
            if name not in needed:
                remove(target / name, stopping=self.stopping)
        return True

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
        self._copy_logs()
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

    def _copy_logs(self) -> None:
        for name in _LOGS:
            with contextlib.suppress(DataError):  # the log of a worker that has written none
                self._take(self.earlier / name, self.run_dir / name, max_bytes=MAX_LOG_BYTES)

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


def _is_same_run(stored: bytes, config: Mapping[str, Any]) -> bool:
    """Say whether a config file is of the same run, wherever that was to pause."""
    try:
        before = parse_json(stored.decode())["neural_network"]
        before, now = copy_config(before), copy_config(config)
        for each in (before, now):
            each["checkpoints"].pop("pause_after", None)
    except (ValueError, KeyError, TypeError, AttributeError, DataError):
        return False  # a worker may have written what it likes
    return bool(before == now)


def _identity(name: str, folder: int) -> tuple[int, int] | None:
    """Return what changes when a file is replaced; None if it is no regular file."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None
