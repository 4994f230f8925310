"""Where a study's files are; and how folders are replaced: whole, locked, never another's."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from hpo.lockfile import held
from trainer.bounded import parse_json, read_bytes
from trainer.data.locks import NO_LOCKS

TRIAL_FILE = "trial.json"  # says whose model a folder holds
CONTENTS = "contents.json"  # hashes of files that a study has read

TRIAL, ATTEMPT, TEST_OF_TRIAL = "trial_", "attempt_", "test_of_trial_"
CASES_OF_TRIAL = "cases_of_trial_"

MAX_JSON_BYTES = 64 * 2**20

# To bring a large model from the artifact store takes its time; a driver that was stopped
# (SIGSTOP) takes for ever.
LOCK_PATIENCE_S = 60.0
IMPATIENCE_S = 1.0
LOOK_INTERVAL_S = 0.05
MAX_HOLDER = 300  # characters
_stuck: set[Path] = set()

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux: <fcntl.h>, <linux/fs.h>


@dataclass(frozen=True, kw_only=True)
class WorkFolders:
    """Where a study keeps its files, all below the output folder."""

    output: Path
    study: Path

    @classmethod
    def of(cls, output: Path, study_name: str) -> WorkFolders:
        """Return where a study of this name has its files, below an output folder."""
        return cls(output=output.absolute(), study=output.absolute() / "runs" / study_name)

    @property
    def best_model(self) -> Path:
        """The best model so far."""
        return self.output / "best_model"

    @property
    def list_acc(self) -> Path:
        """The tutorial's summary of all trials."""
        return self.output / "list_acc.json"

    @property
    def report(self) -> Path:
        """The page that shows what came of the study."""
        return self.output / "report.html"

    @property
    def plots(self) -> Path:
        """Pictures of the study."""
        return self.output / "plots"

    @property
    def artifacts(self) -> Path:
        """Pictures of trials for Optuna's dashboard, by the ids that Optuna gives them."""
        return self.output / "artifacts"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files, where they are asked for."""
        return self.output / "tensorboard" / self.study.name

    def tensorboard_run(self, number: int) -> Path:
        """Return where the event file of a trial is."""
        return self.tensorboard / self.trial(number).name

    @property
    def inputs(self) -> Path:
        """Network files and weights, which every worker may read."""
        return self.study / "inputs"

    @property
    def generated(self) -> Path:
        """Images and masks of a study that generates them."""
        return self.study / "data"

    @property
    def survey(self) -> Path:
        """What reading all images and masks has found."""
        return self.study / "survey.json"

    @property
    def contents(self) -> Path:
        """Hashes of the files of the data set."""
        return self.study / CONTENTS

    @property
    def cache(self) -> Path:
        """Decoded images of the study's containers, which must not reach the host's cache."""
        return self.study / "cache"

    def split(self, identity: str) -> Path:
        """Training and validation part, where the study selects on one."""
        return self.study / f"split_{identity}"

    def trial(self, number: int) -> Path:
        """Return the folder of a trial."""
        return self.study / f"{TRIAL}{number:05d}"

    def trials(self) -> dict[int, Path]:
        """Return number -> folder of the trials that have one; links are never followed."""
        folders = (
            (path.name.removeprefix(TRIAL), path) for path in real_folders(self.study, TRIAL)
        )
        return {int(number): path for number, path in folders if number.isdecimal()}

    def attempt(self, number: int, attempt: int) -> Path:
        """Return the folder of one attempt at a trial."""
        return self.trial(number) / f"{ATTEMPT}{attempt}"

    def attempts(self, number: int) -> list[Path]:
        """Return the folders of all attempts at a trial, those that were replaced among them."""
        return real_folders(self.trial(number), ATTEMPT)

    def test(self, number: int) -> Path:
        """Return where a trial's model is scored on the test images."""
        return self.study / f"{TEST_OF_TRIAL}{number:05d}"

    def cases(self, number: int) -> Path:
        """Return where images are that a trial's model did worst on, for the report."""
        return self.study / f"{CASES_OF_TRIAL}{number:05d}"

    def tests(self) -> list[Path]:
        """Return where models were scored on the test images."""
        return real_folders(self.study, TEST_OF_TRIAL)

    def replay(self, number: int) -> Path:
        """Return the folder of a trial's repetitions."""
        return self.study / f"replay_of_trial_{number:05d}"

    def confirmation(self, number: int, seed: int) -> Path:
        """Return the folder of a trial's configuration, trained anew with a seed."""
        return self.study / "confirm" / f"{TRIAL}{number:05d}" / f"seed_{seed}"


def real_folders(folder: Path, prefix: str) -> list[Path]:
    """Return the folders, and no links, in a folder whose name begins so; none if it is absent."""
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def is_regular_file(path: Path) -> bool:
    """Say whether a path is a file of its own, in a folder of its own: no link to elsewhere."""
    try:
        return stat.S_ISREG(path.lstat().st_mode) and not path.parent.is_symlink()
    except OSError:
        return False


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, an empty one where there is no such file or no object."""
    try:
        text = read_bytes(path, MAX_JSON_BYTES, follow_links=True).decode()
        entry = parse_json(text, non_finite_as_none=True)
    except (OSError, ValueError):
        return {}
    return entry if isinstance(entry, dict) else {}


def other_spelling(path: Path) -> str | None:
    """Return the name that a path is there under, if that differs from its own by case only."""
    if not path.exists():
        return None
    names = os.listdir(path.parent)  # noqa: PTH208  # the names as they were given
    if path.name in names:
        return None
    return next((name for name in names if name.casefold() == path.name.casefold()), None)


class LockHeldError(OSError):
    """Somebody has a lock and does not go on: stopped, say, or its disk hangs."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep the other drivers of this output folder away from a file or folder in it.

    Raises:
        LockHeldError: another has it for long.
    """
    path = folder.with_name(f".{folder.name}.lock")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("a+"))  # it says who has it
        try:
            _wait_for(file, path)  # given back when the file closes, killed or not
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            stack.enter_context(held(path.with_suffix(".held")))
        else:
            _sign(file)
        yield


def _wait_for(file: TextIO, path: Path) -> None:
    # Once it has waited in vain it waits no more until then, or each trial would.
    patience_s = IMPATIENCE_S if path in _stuck else LOCK_PATIENCE_S
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(LOOK_INTERVAL_S)
                continue
            _stuck.add(path)
            raise LockHeldError(
                errno.ETIMEDOUT, f"{_holder(file)} has it locked and does not go on", str(path)
            ) from None
        _stuck.discard(path)
        return


def _sign(file: TextIO) -> None:
    """Write who has a lock, for those that wait for it."""
    with contextlib.suppress(OSError):  # a full disk
        file.truncate(0)
        file.write(f"process {os.getpid()} of host {socket.gethostname()}")
        file.flush()


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read(MAX_HOLDER) or "another process"


def keep_foreign(folder: Path, study_id: str | None) -> None:
    """Move what is not this study's best model out of the way, to a name that is free."""
    if not folder.is_dir():
        return
    entry = read_json(folder / TRIAL_FILE)
    if "study_id" in entry and entry["study_id"] == study_id:
        return
    name = f"{folder.name}-{entry.get('study', 'before')}"
    free = folder.with_name(name)
    number = 2
    while free.exists():
        free = folder.with_name(f"{name}-{number}")
        number += 1
    folder.rename(free)


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`; what was there ends up at `new`.

    On Linux both names are exchanged in one step. Elsewhere, and on file systems that cannot, the
    old folder is renamed away first: for a moment nothing is there.
    """
    if not target.exists():
        new.rename(target)
        return
    if not _exchange(new, target):
        away = target.with_name(f".{target.name}.{os.urandom(8).hex()}.old")
        target.rename(away)
        new.rename(target)
        away.rename(new)


def _exchange(first: Path, second: Path) -> bool:
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = (os.fsencode(first), os.fsencode(second))
    code = renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    return bool(code == 0)
