"""What all commands share: how they open a study, and how they print."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError

from hpo.console import console, errors, tell
from hpo.errors import StorageError, UsageError
from hpo.store.connections import engine_settings
from hpo.store.damage import refuse_damaged
from hpo.store.databaseurl import (
    DATABASE_FILE,
    choose_url,
    default_url,
    parse_url,
    show_url,
    why_unreachable,
)
from hpo.store.schema import check_schema
from hpo.study.options import DatabaseOptions, StudyOptions
from hpo.study.queries import StudyReader, study_names

if TYPE_CHECKING:
    import optuna


def database_url(options: DatabaseOptions) -> str:
    """Return the URL of the database that the options name.

    Raises:
        UsageError: there is none; a reader makes no new one.
    """
    url = choose_url(
        options.storage,
        options.storage_file,
        lambda text: errors.print(f"warning: {text}", markup=False),
    )
    if url is None:
        file = options.output_dir.absolute() / DATABASE_FILE
        if not file.exists():
            raise UsageError(
                f"no {DATABASE_FILE} in {options.output_dir.absolute()}; name the database with "
                "--storage or its folder with --output-dir"
            )
        return default_url(options.output_dir)
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).exists():
        raise UsageError(f"--storage: no such file: {parsed.database}")
    return url


@contextlib.contextmanager
def reading(url: str) -> Iterator[Engine]:
    """Connect to a database for counting and summing in it.

    Raises:
        StorageError: it does not answer, or is another program's; the password is never shown.
    """
    parsed = parse_url(url)
    try:
        refuse_damaged(parsed)
        engine = create_engine(parsed, **engine_settings(parsed))
        try:
            check_schema(engine)
            yield engine
        finally:
            engine.dispose()
    except (ImportError, SQLAlchemyError) as error:
        reason = why_unreachable(error, parsed)
        raise StorageError(f"--storage {show_url(parsed)}: {reason}") from None


def open_reader(engine: Engine, name: str | None) -> tuple[str, StudyReader]:
    """Return the study's name and its reader.

    Raises:
        UsageError: no such study, or several and no name.
    """
    names = study_names(engine)
    chosen = choose_study(name, list(names))
    return chosen, StudyReader(engine, names[chosen])


def choose_study(name: str | None, names: Sequence[str]) -> str:
    """Return the study that is meant: the named one, or the only one."""
    if name is None:
        if not names:
            raise UsageError("the database has no studies yet")
        if len(names) != 1:
            raise UsageError(f"--study-name is needed; the database has: {', '.join(names)}")
        return names[0]
    if name not in names:
        from trainer.config.messages import hint

        raise UsageError(f"no study {name!r} in the database; {hint(name, names)}")
    return name


@contextlib.contextmanager
def opened_study(options: StudyOptions) -> Iterator[optuna.Study]:
    """Open the study that is meant, as Optuna has it."""
    import optuna
    from optuna.storages import get_storage

    from hpo.store.database import close_storage, open_storage

    rdb = open_storage(database_url(options), makes_tables=False)
    try:
        cached = get_storage(rdb)
        chosen = choose_study(options.study_name, optuna.get_all_study_names(cached))
        yield optuna.load_study(study_name=chosen, storage=cached)
    finally:
        close_storage(rdb)


def find_trial(study: optuna.Study, number: int) -> optuna.trial.FrozenTrial:
    """Return a trial by its number.

    Raises:
        UsageError: the study has no such trial.
    """
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.number == number:
            return trial
    raise UsageError(f"--trial {number}: the study has trials 0 to {len(trials) - 1}")


def say(text: str = "") -> None:
    """Print a line as it is."""
    console.print(text, markup=False)


def say_prose(text: str) -> None:
    """Print a line, on a terminal folded between words."""
    tell(console, text)


def show_json(value: Any) -> None:
    """Print JSON."""
    text = json.dumps(value, indent=2).replace("\x7f", "\\u007f")  # the one that JSON may hold
    console.print(text, markup=False)


def show_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows of the same columns."""
    from tabulate import tabulate

    shown = [
        {key: f"{each:.4f}" if isinstance(each, float) else each for key, each in row.items()}
        for row in rows
    ]
    say(tabulate(shown, headers="keys", missingval="–", disable_numparse=True, stralign="right"))
