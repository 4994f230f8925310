"""Makes the folder of an attempt at a trial, with the state of an earlier one to resume from."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hpo.folders import WorkFolders
from trainer import rundir
from trainer.keypath import copy_config, get_path

_LOGS = (rundir.TRAIN_LOG, rundir.METRICS, rundir.TEST_LOG)
MAX_COPIES = 10  # of a state that its worker goes on replacing: then the trial starts anew


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
    moves: bool = False,
) -> AttemptFolder:
    """Make the folder with its config; an older one of that name is kept aside.

    The state of an earlier attempt is copied if its worker keeps one and had the very same
    config, but for where it pauses: paths differ between containers and processes, and may
    between nodes. It is moved if that worker is known to have ended (`moves`).

    Raises:
        OSError: the disk is full, say.
    """
    run_dir = folders.attempt(number, attempt)
    if run_dir.exists():
        run_dir.rename(run_dir.with_name(f"{run_dir.name}.{time.time_ns()}.old"))
    run_dir.mkdir(parents=True)
    text = rundir.dump_config(config)
    rundir.write_atomic(run_dir / rundir.CONFIG, text)
    log = rundir.TestLogReader(run_dir / rundir.TEST_LOG)
    if resume and get_path(config, "checkpoints.resume"):
        for earlier in range(attempt - 1, 0, -1):
            if _carry_over(folders.attempt(number, earlier), run_dir, config, moves=moves):
                evaluated = {entry.epoch: entry.accuracy for entry in log.read_new()}
                return AttemptFolder(run_dir, log, earlier, evaluated)
    return AttemptFolder(run_dir, log)


def _carry_over(earlier: Path, run_dir: Path, config: Mapping[str, Any], *, moves: bool) -> bool:
    """Copy or move what a worker resumes from; say whether it is there.

    The earlier worker may still run, if its driver was only cut off: the state is copied again if
    it was replaced meanwhile, for its best checkpoint may have gone with it.
    """
    if not _is_same_run(rundir.read_untrusted(earlier / rundir.CONFIG), config):
        return False
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY
        # held open, because a worker that still runs could make its name a link
        source = os.open(earlier / rundir.CHECKPOINTS, flags)
    except OSError:
        return False
    try:
        if moves and _move_state(earlier, source, run_dir):
            return True
        if any(_copy_state(earlier, source, run_dir) for _ in range(MAX_COPIES)):
            return True
    finally:
        os.close(source)
    shutil.rmtree(run_dir / rundir.CHECKPOINTS, ignore_errors=True)
    for name in _LOGS:
        (run_dir / name).unlink(missing_ok=True)
    return False


def _is_same_run(stored: bytes, config: Mapping[str, Any]) -> bool:
    """Say whether a config file is of the same run, wherever that was to pause."""
    try:
        before = json.loads(stored)["neural_network"]
        before, now = copy_config(before), copy_config(config)
        for each in (before, now):
            each["checkpoints"].pop("pause_after", None)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return False  # a worker may have written what it likes
    return bool(before == now)


def _move_state(earlier: Path, source: int, run_dir: Path) -> bool:
    """Copy the logs and move the checkpoints with the state, all in one step; say if it could.

    Whoever takes over from us finds them in one of the two folders, and logs and config in both.
    """
    if _identity(rundir.RESUME, source) is None:
        return False
    for name in _LOGS:
        _copy_regular(earlier / name, run_dir / name)
    target = run_dir / rundir.CHECKPOINTS
    try:
        (earlier / rundir.CHECKPOINTS).rename(target)
        if not os.path.samestat(target.lstat(), os.fstat(source)):
            target.unlink()  # a link that somebody put in its place
            return False
    except OSError:
        return False
    for name in os.listdir(source):  # of what is held open
        is_needed = name == rundir.RESUME or fnmatch(name, "model_checkpoint_*.pt")
        if not (is_needed and _identity(name, source)):
            _remove(name, source)
    return True


def _remove(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        shutil.rmtree(name, ignore_errors=True, dir_fd=folder)


def _copy_state(earlier: Path, source: int, run_dir: Path) -> bool:
    """Copy logs, checkpoints and state; say whether the state stayed the same meanwhile."""
    seen = _identity(rundir.RESUME, source)
    if seen is None:
        return False
    target = run_dir / rundir.CHECKPOINTS
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in _LOGS:
        _copy_regular(earlier / name, run_dir / name)
    for name in sorted(os.listdir(source)):  # of what is held open
        if fnmatch(name, "model_checkpoint_*.pt"):
            _copy_regular(name, target / name, source)
    # The state last and in one step: whoever takes over from us finds all of it or nothing.
    aside = target / f".{rundir.RESUME}.tmp"
    if _copy_regular(rundir.RESUME, aside, source) and _identity(rundir.RESUME, source) == seen:
        aside.replace(target / rundir.RESUME)
        return True
    return False


def _identity(name: str, folder: int) -> tuple[int, int] | None:
    """Return what changes when a file is replaced; None if it is no regular file."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _copy_regular(source: Path | str, target: Path, folder: int | None = None) -> bool:
    """Copy a file that a worker wrote: no links to elsewhere, no pipe that blocks."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(source, flags, dir_fd=folder)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        with target.open("wb") as copy:
            shutil.copyfileobj(file, copy, 2**20)
    return True
