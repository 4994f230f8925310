"""`--like STUDY`: what was best in a study that was searched before is tried first."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import URL

from hpo.errors import StorageError, UsageError
from hpo.plan.first_trials import best_like
from hpo.plan.options import OutputOptions
from hpo.plan.space import SearchSpace
from hpo.store.databaseurl import DATABASE_FILE, choose_url, default_url, parse_url, show_url
from hpo.store.first_trials import FirstTrial
from trainer.config.messages import hint


def like_trials(
    text: str, output: OutputOptions, space: SearchSpace, own_name: str
) -> list[FirstTrial]:
    """Return the best configurations of the study that `--like` names.

    Args:
        text: an output folder, a study of this search's database, or either of these as
            PLACE#NAME, where PLACE may be a database's URL, too.
        output: this search's database.
        space: this search's.
        own_name: of this search's study.

    Raises:
        UsageError: there is no such study, it has nothing to try here, or it is this one.
        StorageError: its database does not answer.
    """
    import optuna

    from hpo.store.database import close_storage, open_storage
    from hpo.store.directions import direction_of
    from hpo.store.study import finished_trials

    url, name = _place(text, output)
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).is_file():
        raise UsageError(
            f"--like {text}: no folder with a {DATABASE_FILE}, and no study of this search's "
            "database, of which there is none yet"
        )
    try:
        storage = open_storage(url)
    except StorageError as error:
        raise StorageError(f"--like: {error}") from None
    try:
        names = optuna.get_all_study_names(storage)
        if name is None and len(names) != 1:
            known = ", ".join(names) or "none"
            raise UsageError(f"--like {text}: say which study, as {text}#NAME; there are: {known}")
        chosen = names[0] if name is None else name
        if chosen not in names:
            raise UsageError(
                f"--like {text}: no study {chosen!r} in {show_url(parsed)}; {hint(chosen, names)}"
            )
        if chosen == own_name and _is_same(parsed, parse_url(_own_url(output))):
            raise UsageError(
                f"--like {text}: that is this search's own study, which knows its best already; "
                "name another, or leave it out"
            )
        study = optuna.load_study(study_name=chosen, storage=storage)
        return best_like(space, finished_trials(study), chosen, direction_of(study))
    finally:
        close_storage(storage)


def _place(text: str, output: OutputOptions) -> tuple[str, str | None]:
    """Return the database that is meant, and the study's name if it is said."""
    place, _, name = text.rpartition("#") if "#" in text else (text, "", "")
    if "://" in place:
        return place, name or None
    if (Path(place) / DATABASE_FILE).is_file():
        return default_url(Path(place).absolute()), name or None
    return _own_url(output), text


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
