"""`rml-study clean`: removes what a study has left behind on this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.command_line import as_options
from hpo.errors import HpoError
from hpo.folders import TRIAL_FILE, WorkFolders, read_json, real_folders
from hpo.keys import DATABASE_ID, PROVENANCE, STUDY_ID
from hpo.launchers.premounted import PREFIX
from hpo.owner import driver_labels, own_filter
from hpo.study.common import database_url, open_reader, reading, say
from hpo.study.options import StudyOptions
from hpo.wording import format_size
from hpo.worker_files import remove, tree_size
from trainer import rundir
from trainer.log import printable

if TYPE_CHECKING:
    from hpo.study.queries import StudyReader


MAX_COPIES = 100  # of models that are listed for one test
REMOVE_LIMIT_S = 600.0  # of each; Ctrl-C ends it before


@dataclass(frozen=True)
class Leftover:
    """Something that may go: a folder, or a container."""

    what: str
    size_bytes: int
    path: Path | None = None
    container: Any = None
    is_more: bool = False  # than size_bytes: not all was looked at


@dataclass(frozen=True, kw_only=True)
class CleanOptions:
    """Options of `rml-study clean`."""

    yes: Annotated[bool, typer.Option("--yes", help="Don't ask")] = False
    study: StudyOptions


@as_options
def clean(options: CleanOptions) -> None:
    """Remove orphan containers, checkpoints of ended attempts and the study's image cache.

    Lists everything with its size first, and asks. Logs, metrics, best_model/ and what a running
    trial needs stay.
    """
    with reading(database_url(options.study)) as engine:
        name, reader = open_reader(engine, options.study.study_name)
        folders = WorkFolders.of(options.study.output_dir, name)
        folder = folders.study
        busy = {trial.number for trial in reader.running(PROVENANCE)}
        # given back, or paused at a rung: to be resumed
        waiting = reader.numbers("WAITING")
        needed = busy | waiting | _not_stored(folders, reader)
        found = list(_find_files(folders, needed, is_busy=bool(busy) or reader.has_driver()))
        found += _find_containers(name, reader)
    if not found:
        say(f"nothing to clean in {folder}, and no orphan containers")
        return
    for leftover in found:
        where = str(leftover.path.relative_to(folder)) if leftover.path else leftover.what
        text = f"{leftover.what}: {where}" if leftover.path else where
        size = f"{'over ' * leftover.is_more}{format_size(leftover.size_bytes)}"
        say(f"{size:>9}  {printable(text)}")
    total = sum(leftover.size_bytes for leftover in found)
    say(f"{format_size(total):>9}  in all, in {folder}")
    if not options.yes and not typer.confirm("remove all of these?"):
        raise typer.Exit(1)
    left = [line for leftover in found if (line := _remove(leftover)) is not None]
    say(f"removed {len(found) - len(left)}")
    if left:
        raise HpoError("\n".join([f"{len(left)} could not be removed:", *left]))


def _not_stored(folders: WorkFolders, reader: StudyReader) -> set[int]:
    """Return the best trial, whose checkpoint is all that there is of it, if that is so."""
    best, study_id = reader.best(), reader.attribute(STUDY_ID)
    if best is None:
        return set()
    stored = [read_json(model / TRIAL_FILE) for model in folders.models]
    is_stored = (study_id, best.number) in [(e.get("study_id"), e.get("trial")) for e in stored]
    return set() if is_stored else {best.number}


def _find_files(folders: WorkFolders, needed: set[int], *, is_busy: bool) -> Iterator[Leftover]:
    """Yield what may go below a study's folder; links are never followed."""
    for number in folders.trials():
        for attempt in folders.attempts(number) if number not in needed else ():
            if attempt.name.endswith(".old"):
                yield _folder("attempt that was replaced", attempt)
                continue
            for checkpoints in real_folders(attempt, rundir.CHECKPOINTS):
                yield _folder("checkpoints", checkpoints)
    if not is_busy:
        for pool in real_folders(folders.study, PREFIX):
            yield _folder("folders for runs that never came", pool)
        for cache in real_folders(folders.study, folders.cache.name):
            yield _folder("decoded images, made again when needed", cache)
        for test in folders.tests():
            for checkpoints in real_folders(test, rundir.CHECKPOINTS):
                yield _folder("checkpoints", checkpoints)
            found = islice(test.glob("*.pt"), MAX_COPIES)  # there is one of ours
            for checkpoint in sorted(found):
                if checkpoint.is_dir() and not checkpoint.is_symlink():
                    yield _folder("folder in place of a model", checkpoint)
                else:
                    yield Leftover("copy of a model", checkpoint.lstat().st_size, checkpoint)


def _folder(what: str, folder: Path) -> Leftover:
    size_bytes, is_all = tree_size(folder)
    return Leftover(what, size_bytes, folder, is_more=not is_all)


def _find_containers(study: str, reader: StudyReader) -> list[Leftover]:
    """Return this study's containers on this host, unless a driver here is alive.

    Only this database's and this user's: other databases may have a study of that name.
    """
    host, database = socket.gethostname(), reader.attribute(DATABASE_ID)
    alive = [
        trial
        for trial in reader.running(PROVENANCE)
        if trial.provenance.get("host") == host and trial.is_alive
    ]
    if alive or reader.has_driver(host) or database is None:
        return []
    try:
        from hpo.launchers.container import ENGINE_ERRORS
        from hpo.launchers.engine import connect

        client = connect()
    except HpoError:
        return []
    wanted = [f"rml.study={study}", *own_filter(driver_labels(database))]
    try:
        containers = client.containers.list(all=True, filters={"label": wanted})
    except ENGINE_ERRORS:
        containers = []
    return [
        Leftover(f"container {each.short_id} ({each.status})", 0, container=each)
        for each in containers
    ]


def _remove(leftover: Leftover) -> str | None:
    """Remove it, or return a line that says what is left."""
    if leftover.container is not None:
        from hpo.launchers.container import remove as remove_container

        remove_container(leftover.container)
        return None
    assert leftover.path is not None
    return remove(leftover.path, limit_s=REMOVE_LIMIT_S)
