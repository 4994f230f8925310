"""Says in one line what is wrong with a SQLite file that a crash or a bad disk has damaged."""

from __future__ import annotations

import contextlib
import sqlite3
import sysconfig
import traceback
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL

from hpo.errors import DIAGNOSES, StorageError, is_ours

MAX_CHECKED_BYTES = 2**27  # a second; of a larger file the damage shows when it is met
BUSY_S = 1.0
REMEDY = (
    "take a copy of before (while no search runs), or begin another with --storage; "
    "rml-study doctor looks at it again"
)
_SIGNS = ("malformed", "could not decode", "not a database", "corrupt")
# Of a file that opens, an error is of what its rows hold where one of these raises it: what reads
# rows for us, or a reader of ours itself.
_LIBRARIES = ("/sqlalchemy/", "/optuna/storages/")
_READERS = ("/hpo/store/", "/hpo/study/queries.py")
_RETRY = "/hpo/store/database.py"  # nearly all that a search does runs inside its retry
_OF_ROWS = (LookupError, ValueError, TypeError, AttributeError, OverflowError)
_STDLIB = (sysconfig.get_path("stdlib"), "<frozen ")
_opened: dict[Path, None] = {}  # the last opened is last


def refuse_damaged(url: URL) -> None:
    """Refuse a SQLite file whose pages do not fit together.

    Raises:
        StorageError: names the file and what to do.
    """
    if url.get_backend_name() != "sqlite" or not url.database:
        return
    path = Path(url.database)
    if path.exists() and not path.is_file() and not path.is_dir():  # a pipe would be waited for
        raise StorageError(f"--storage: {path} is no regular file; name another")
    if not path.is_file():
        return
    found = _check(path) if path.stat().st_size <= MAX_CHECKED_BYTES else ""
    if found:
        raise StorageError(f"{path}: the study's database is damaged ({found}); {REMEDY}")
    _opened.pop(path, None)
    _opened[path] = None
    if _diagnose not in DIAGNOSES:
        DIAGNOSES.append(_diagnose)


def is_damage(error: BaseException) -> bool:
    """Say whether the database says of its file that it is damaged: waiting does not mend it."""
    return any(sign in str(error).lower() for sign in _SIGNS)


def _check(path: Path) -> str:
    """Return what SQLite finds wrong; "" for nothing, also of a file that is in use."""
    address = f"file:{quote(str(path.absolute()))}?mode=rw"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=BUSY_S)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:  # locked, or on a disk that cannot be written
        return ""
    except sqlite3.DatabaseError as error:
        return "" if "not a database" in str(error) else str(error)
    except (UnicodeDecodeError, OverflowError) as error:
        return str(error)
    text = str(found[0]) if found else "no answer"
    return "" if text == "ok" else " ".join(text.split())[:200]


def _diagnose(error: BaseException) -> str | None:
    """Return the line on an error that a damaged file has led to, None of others."""
    if not _opened or isinstance(error, MemoryError):
        return None
    path, found = next(
        ((path, found) for path in reversed(_opened) if (found := _check(path))),
        (next(reversed(_opened)), ""),
    )
    if not found and not is_damage(error) and not _comes_of_rows(error):
        return None
    reason = found or " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return f"{path}: the study's database cannot be read ({reason}); it may be damaged: {REMEDY}"


def _comes_of_rows(error: BaseException) -> bool:
    """Say whether a row that makes no sense has led to an error, not a fault of the program."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [
        index for index, file in enumerate(files) if is_ours(file) and not file.endswith(_RETRY)
    ]
    if not ours:
        return False
    deepest = ours[-1]
    below = [file for file in files[deepest + 1 :] if _is_library(file)]
    if below:
        return any(part in file for file in below for part in _LIBRARIES)
    return isinstance(error, _OF_ROWS) and any(part in files[deepest] for part in _READERS)


def _is_library(file: str) -> bool:
    return not file.startswith(_STDLIB) or "site-packages" in file
