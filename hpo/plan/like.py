"""`--like STUDY`: what was best in a study that was searched before is tried first."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL

from hpo.errors import StorageError, UsageError
from hpo.plan.first_trials import best_like
from hpo.plan.options import OutputOptions
from hpo.plan.space import SearchSpace
from hpo.store.databaseurl import (
    DATABASE_FILE,
    FILE_VARIABLE,
    Warn,
    choose_url,
    default_url,
    parse_url,
    show_url,
    warn_of_password,
)
from hpo.store.first_trials import FirstTrial
from trainer.config.messages import hint

LIKE = "--like"
_STORAGE = "--storage"  # what messages on databases begin with


def like_trials(
    text: str, output: OutputOptions, space: SearchSpace, own_name: str, warn: Warn
) -> list[FirstTrial]:
    """Return the best configurations of the study that `--like` names.

    Args:
        text: an output folder, a study of this search's database, or either of these as
            PLACE#NAME, where PLACE may be a database's URL, too.
        output: this search's database.
        space: this search's.
        own_name: of this search's study.
        warn: is told of a password in the text.

    Raises:
        UsageError: there is no such study, it has nothing to try here, or it is this one.
        StorageError: its database does not answer, or holds no study; nothing is made there.
    """
    import optuna

    from hpo.store.database import close_storage, open_storage
    from hpo.store.directions import direction_of
    from hpo.store.study import finished_trials

    place = _find(text, output, warn)
    url, shown = place.url, f"{LIKE} {place.shown}"
    with _told_of_like():
        storage = open_storage(url.render_as_string(hide_password=False), makes_tables=False)
    try:
        names = optuna.get_all_study_names(storage)
        name = place.name
        if name is None and len(names) != 1:
            known = ", ".join(names) or "none"
            raise UsageError(
                f"{shown}: say which study, as {place.shown}#NAME; there are: {known}"
            )
        chosen = names[0] if name is None else name
        if chosen not in names:
            raise UsageError(
                f"{shown}: no study {chosen!r} in {show_url(url)}; {hint(chosen, names)}"
            )
        if chosen == own_name and _is_same(url, parse_url(_own_url(output))):
            raise UsageError(
                f"{shown}: that is this search's own study, which knows its best already; "
                "name another, or leave it out"
            )
        study = optuna.load_study(study_name=chosen, storage=storage)
        return best_like(space, finished_trials(study), chosen, direction_of(study))
    finally:
        close_storage(storage)


@dataclass(frozen=True)
class _Place:
    """Where a study is.

    Attributes:
        url: of its database.
        name: of the study, None if it is not said.
        shown: what was given, without a password.
    """

    url: URL
    name: str | None
    shown: str


def _find(text: str, output: OutputOptions, warn: Warn) -> _Place:
    """Return where the study is that is meant.

    Raises:
        UsageError: it can be nowhere, for there is no database.
        StorageError: a URL that is none.
    """
    # A password may hold a "#", no study's name an "@".
    place, _, name = text.rpartition("#") if "#" in text.rpartition("@")[2] else (text, "", "")
    if "://" in place:
        with _told_of_like():
            url = parse_url(place)
        remedy = (
            f"put the URL into a file that {FILE_VARIABLE} names, and give {LIKE} the study's "
            "name alone, which is looked for in that database"
        )
        warn_of_password(place, LIKE, remedy, warn)
        return _Place(url, name or None, show_url(url) + (f"#{name}" if name else ""))
    if (Path(place) / DATABASE_FILE).is_file():
        return _Place(parse_url(default_url(Path(place).absolute())), name or None, text)
    if re.search(":.+@", text):
        with _told_of_like():  # that it is no URL, without showing a password
            parse_url(text)
    own = parse_url(_own_url(output))
    if own.get_backend_name() == "sqlite" and not Path(str(own.database)).is_file():
        raise UsageError(
            f"{LIKE} {text}: no folder with a {DATABASE_FILE}, and no study of this search's "
            "database, of which there is none yet"
        )
    return _Place(own, text, text)


@contextlib.contextmanager
def _told_of_like() -> Iterator[None]:
    """Have a message on a database name this option, not the one that names this search's."""
    try:
        yield
    except StorageError as error:
        told = str(error)
        told = told.removeprefix(_STORAGE) if told.startswith(_STORAGE) else f": {told}"
        raise StorageError(f"{LIKE}{told}") from None


def _own_url(output: OutputOptions) -> str:
    own = choose_url(output.storage, output.storage_file, lambda _: None)
    return own or default_url(output.output_dir)


def _is_same(one: URL, other: URL) -> bool:
    """Say whether two URLs are of one database, whoever opens it and how."""
    if one.get_backend_name() != other.get_backend_name():
        return False
    if one.get_backend_name() == "sqlite":
        return Path(str(one.database)).resolve() == Path(str(other.database)).resolve()
    return (one.host, one.port, one.database) == (other.host, other.port, other.database)
