"""Which database the user means; without loading Optuna, which costs more than a look at it."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from hpo.errors import StorageError, UsageError
from trainer.data.locks import NO_LOCKS
from trainer.extras import how_to_install

DATABASE_FILE = "rml_optimize.db"
URL_VARIABLE = "RML_STORAGE"
FILE_VARIABLE = "RML_STORAGE_FILE"
DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
EXTRAS = {"postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql"}
SERVERS = {"postgresql": "PostgreSQL", "mysql": "MySQL or MariaDB", "mariadb": "MariaDB"}
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # PostgreSQL's protocol: answered by S or N
_QUERY_PASSWORDS = {"password", "passwd"}  # as drivers take it, too
FILE_KEYS = {"ssl_ca", "ssl_cert", "ssl_key"}  # PyMySQL's errors don't name the file

Warn = Callable[[str], None]


def default_url(output: Path) -> str:
    """Return the URL of the database that a search on one machine keeps by default."""
    return file_url(output / DATABASE_FILE)


def file_url(path: Path) -> str:
    """Return the URL of a SQLite database."""
    return URL.create("sqlite", database=str(path.absolute())).render_as_string()


def choose_url(storage: str | None, storage_file: Path | None, warn: Warn) -> str | None:
    """Return the URL that the user names, None for the default.

    The options come first, then the variables RML_STORAGE_FILE and RML_STORAGE.

    Raises:
        UsageError: both options, or a file that cannot be read or is empty.
    """
    if storage is not None and storage_file is not None:
        raise UsageError("--storage and --storage-file exclude each other; drop one of the two")
    if storage is not None:
        remedy = f"put the URL into a file for --storage-file, or into {URL_VARIABLE}"
        warn_of_password(storage, "--storage", remedy, warn)
        return storage
    if storage_file is None and os.environ.get(FILE_VARIABLE):
        return _read_url(Path(os.environ[FILE_VARIABLE]), FILE_VARIABLE, warn)
    if storage_file is not None:
        return _read_url(storage_file, "--storage-file", warn)
    return os.environ.get(URL_VARIABLE) or None


def warn_of_password(url: str, option: str, remedy: str, warn: Warn) -> None:
    """Say what it means that a URL stands on the command line, if it holds a password."""
    if _has_password(url):
        warn(
            f"{option}: every user of this machine can read the password in the list of "
            f"processes; {remedy}"
        )


def _read_url(path: Path, where: str, warn: Warn) -> str:
    try:
        url = path.read_text(encoding="utf-8-sig").strip()
        status = path.stat()
        # A file of root's for our group is a mounted secret, whose group the cluster has chosen.
        readers = status.st_mode & (0o007 if status.st_uid != os.geteuid() else 0o077)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise UsageError(f"{where} {path}: cannot be read ({reason})") from None
    if not url or "\n" in url:
        raise UsageError(f"{where} {path}: expected one line, the database's URL")
    if readers and _has_password(url):
        warn(f"{where} {path}: others can read the password in it; chmod 600 {path}")
    return url


def _has_password(url: str) -> bool:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return False
    return bool(parsed.password) or not _QUERY_PASSWORDS.isdisjoint(parsed.query)


def parse_url(url: str) -> URL:
    """Read a database's URL; a bare `postgresql://` or `mysql://` gets the driver that we install.

    Raises:
        StorageError: it is none (the text is not shown, for it may hold a password), or a file
            that it names cannot be read.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # a port that is no number raises ValueError
        raise StorageError(
            "--storage: not a database URL; expected sqlite:///FILE, "
            "postgresql+psycopg://USER@HOST/DATABASE or mysql+pymysql://USER@HOST/DATABASE "
            "(write ':', '/', '@' in a password as %XX)"
        ) from None
    backend = parsed.get_backend_name()
    if parsed.drivername == backend and backend in DRIVERS:
        parsed = parsed.set(drivername=f"{backend}+{DRIVERS[backend]}")
    for key in FILE_KEYS & parsed.query.keys():
        try:
            Path(str(parsed.query[key])).open("rb").close()
        except OSError as error:
            raise StorageError(
                f"--storage: {key}={parsed.query[key]}: cannot be read ({error.strerror})"
            ) from None
    return parsed


def show_url(url: URL) -> str:
    """Return a URL fit to be seen: without password, and without its query, which may hold one."""
    return url.set(query={}).render_as_string(hide_password=True)


def why_unreachable(error: Exception, url: URL) -> str:
    """Return why a database cannot be reached, with the remedy for a missing driver."""
    if isinstance(error, ImportError):
        extra = EXTRAS.get(url.get_backend_name())
        remedy = f"; try {how_to_install(extra)}" if extra else ""
        return f"its driver is not installed ({error}){remedy}"
    if url.get_backend_name() == "sqlite" and url.database and _lacks_locks(Path(url.database)):
        return (
            "is on a file system without locks, which SQLite needs; name a local disk "
            "(--storage sqlite:////PATH/study.db), or a database server"
        )
    reason = describe_error(error, url)
    if reason == "file is not a database":
        return f"{reason} of SQLite's; name another file, or a new one"
    if url.get_backend_name() == "sqlite" and Path(str(url.database)).is_dir():
        return "is a folder; name a file in it, such as study.db"
    if is_other_server(error, url):
        kind = SERVERS[url.get_backend_name()]
        return (
            f"what answers there is no {kind} server ({reason}); check the port, and the kind of "
            "server that the URL begins with"
        )
    return f"cannot be reached ({reason})"


def is_other_server(error: Exception, url: URL) -> bool:
    """Say whether a database cannot be reached because the server there is of another kind."""
    reason, backend = describe_error(error, url), url.get_backend_name()
    if backend == "postgresql":
        return "invalid response to SSL negotiation" in reason
    # A server of MySQL's speaks first, PostgreSQL's waits to be asked.
    return backend in SERVERS and "timed out" in reason and _is_postgresql(url)


def _is_postgresql(url: URL) -> bool:
    try:
        with socket.create_connection((url.host or "localhost", url.port or 3306), 2) as asked:
            asked.sendall(_SSL_REQUEST)
            return asked.recv(1) in (b"S", b"N")
    except OSError:
        return False


def _lacks_locks(path: Path) -> bool:
    """Say whether a file's file system refuses the locks that SQLite takes."""
    try:
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in NO_LOCKS
    return False


def describe_error(error: BaseException, url: URL) -> str:
    """Return the first line of what the database said, without the password."""
    cause = error.__cause__ or error  # Optuna wraps some of SQLAlchemy's
    text = str(getattr(cause, "orig", None) or cause or error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return line.replace(url.password, "***") if url.password else line
