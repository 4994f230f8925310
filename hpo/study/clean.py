"""`rml-study clean`: removes what a study has left behind on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
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
from trainer import rundir

if TYPE_CHECKING:
    from hpo.study.queries import StudyReader


@dataclass(frozen=True)
class Leftover:
    """Something that may go: a folder, or a container."""

    what: str
    size_bytes: int
    path: Path | None = None
    container: Any = None


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
        needed = busy | waiting | _not_stored(folders.best_model, reader)
        found = list(_find_files(folders, needed, is_busy=bool(busy)))
        found += _find_containers(name, reader)
    if not found:
        say(f"nothing to clean in {folder}, and no orphan containers")
        return
    for leftover in found:
        where = str(leftover.path.relative_to(folder)) if leftover.path else leftover.what
        text = f"{leftover.what}: {where}" if leftover.path else where
        say(f"{_size_text(leftover.size_bytes):>9}  {text}")
    total = sum(leftover.size_bytes for leftover in found)
    say(f"{_size_text(total):>9}  in all, in {folder}")
    if not options.yes and not typer.confirm("remove all of these?"):
        raise typer.Exit(1)
    for leftover in found:
        _remove(leftover)
    say(f"removed {len(found)}")


def _not_stored(model: Path, reader: StudyReader) -> set[int]:
    """Return the best trial, whose checkpoint is all that there is of it, if that is so."""
    best, entry = reader.best(), read_json(model / TRIAL_FILE)
    is_ours = entry.get("study_id") == reader.attribute(STUDY_ID)
    is_stored = best is not None and is_ours and entry.get("trial") == best.number
    return set() if best is None or is_stored else {best.number}


def _find_files(folders: WorkFolders, needed: set[int], *, is_busy: bool) -> Iterator[Leftover]:
    """Yield what may go below a study's folder; links are never followed."""
    for number in folders.trials():
        for attempt in folders.attempts(number) if number not in needed else ():
            if attempt.name.endswith(".old"):
                yield Leftover("attempt that was replaced", _size(attempt), attempt)
                continue
            for checkpoints in real_folders(attempt, rundir.CHECKPOINTS):
                yield Leftover("checkpoints", _size(checkpoints), checkpoints)
    if not is_busy:
        for pool in real_folders(folders.study, PREFIX):
            yield Leftover("folders for runs that never came", _size(pool), pool)
        for cache in real_folders(folders.study, folders.cache.name):
            yield Leftover("decoded images, made again when needed", _size(cache), cache)
        for test in folders.tests():
            for checkpoint in sorted(test.glob("*.pt")):
                yield Leftover("copy of a model", checkpoint.lstat().st_size, checkpoint)


def _size(folder: Path) -> int:
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            status = Path(root, name).lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


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
    if alive or database is None:
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


def _remove(leftover: Leftover) -> None:
    if leftover.container is not None:
        from hpo.launchers.container import remove

        remove(leftover.container)
        return
    assert leftover.path is not None
    if leftover.path.is_dir():
        shutil.rmtree(leftover.path)  # refuses a link, and follows none inside
    else:
        leftover.path.unlink()


def _size_text(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
