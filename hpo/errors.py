"""What can go wrong in the driver, and the exit code of each.

HpoError                  1   what was asked for could not be finished
├── UsageError            2   an option, a study, a data folder: the user can mend it
├── LauncherError         2   a worker cannot be started here at all
│   ├── EndingError           none is started any more
│   ├── SlotError             none of one slot: its GPU cannot be used
│   └── NoFolderLeftError     none in one container: a folder of it is not as it was made
├── StorageError          2   the database cannot be reached or refuses us
│   ├── DatabaseAwayError     not now; it may be there later
│   └── OtherDatabaseError    it is another program's, or another Optuna's
├── ArtifactError         1   a model cannot be written to the artifact store, or read from it
├── FailureLimitError     1   too many trials failed
├── DiskFullError         1   there is no room for run folders
└── FolderGoneError       1   the run folders were removed while the search ran
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).parents[1]
_PACKAGES = tuple(f"{ROOT / name}/" for name in ("hpo", "trainer", "studies"))

# Asked about an error that nobody foresaw, for the line to print instead of a traceback.
DIAGNOSES: list[Callable[[BaseException], str | None]] = []


def is_ours(file: str) -> bool:
    """Say whether a frame's file is one of this program's."""
    return file.startswith(_PACKAGES)


def describe_fault(error: BaseException) -> str:
    """Say of an error that nobody foresaw that it is the program's, and where."""
    ours = [
        f", in {Path(frame.f_code.co_filename).relative_to(ROOT)}, line {line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if is_ours(frame.f_code.co_filename)
    ]
    what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return (
        f"a fault of the program itself ({what}{ours[-1] if ours else ''}); please report it with "
        "the lines above"
    )


class HpoError(Exception):
    """Base of every error that the driver reports in one line."""

    exit_code: ClassVar[int] = 1


class UsageError(HpoError):
    """An option, a study or a data folder cannot work; the message names the remedy."""

    exit_code = 2


class LauncherError(HpoError):
    """No worker can be started: no engine, no image, no such command."""

    exit_code = 2


class EndingError(LauncherError):
    """No worker is started any more, because the search is ending: a failure of nobody's."""


class SlotError(LauncherError):
    """The GPU of one slot cannot be used; the others may be."""


class StorageError(HpoError):
    """The study's database cannot be reached, or refuses us."""

    exit_code = 2
