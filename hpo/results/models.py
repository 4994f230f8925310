"""Finds the study's best model wherever it is, and brings it to where it is wanted.

A trial whose model was the best at its end says in the attribute MODEL how to make that model from
its checkpoint, and where else it is. Which of them is the best follows from the scores in the
database: no pointer that two nodes could overwrite. A model is of one attempt at a trial: another
attempt's is another model.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from hpo.folders import (
    TRIAL_FILE,
    LockHeldError,
    WorkFolders,
    is_regular_file,
    keep_foreign,
    locked,
    read_json,
    replace_folder,
)
from hpo.keys import ATTEMPT, STUDY_ID
from hpo.records import ModelRecord, recorded_model
from hpo.results.artifacts import ModelStore
from hpo.results.model_folder import (
    MODEL_FILES,
    checkpoint_file,
    checkpoint_identity,
    make_model,
)
from hpo.store.study import best_trial
from hpo.worker_files import copy_file, remove
from trainer import rundir
from trainer.errors import DataError


def model_of(trial: FrozenTrial) -> ModelRecord:
    """Return the attribute MODEL of a trial, an empty one if it is of an attempt that died."""
    model = recorded_model(trial.user_attrs)
    return model if model.get("attempt") in (None, _attempt(trial)) else {}


def drop_older(study: optuna.Study, model_store: ModelStore) -> None:
    """Remove from the model store what is not the best trial's, once the best trial's is there.

    Only models of ended trials go, and the best of these can only be followed by a better one: so
    no lock is needed, in whatever order the drivers come here.
    """
    best = best_trial(study)
    keep = model_of(best).get("artifact") if best is not None else None
    if keep is None:
        return
    for trial in study.get_trials(deepcopy=False):
        model = recorded_model(trial.user_attrs)
        for name in (*model.get("older", ()), model.get("artifact")):
            if trial.state.is_finished() and name is not None and name != keep:
                model_store.remove(name)


def fetch_best(
    study: optuna.Study,
    target: Path,
    model_store: ModelStore | None,
    here: WorkFolders,
    stopping: threading.Event | None = None,
) -> str | None:
    """Put the study's best model into the folder `target`, unless it is there.

    What is there of another study is kept under another name. Returns a line that says why
    nothing was put there, if so: it names who has the model. `here` is where the study's folders
    are now: they may have been moved. `stopping` is set when the driver is to stop.

    Raises:
        EndingError: it is.
        ArtifactError: the model store does not answer, or holds something else.
    """
    try:
        return _fetch_best(study, target, model_store, here, stopping)
    except LockHeldError as error:
        return (
            f"{error.filename}: {error.strerror}; wake or end it, and run rml-study export, or "
            "the same search again"
        )


def _fetch_best(
    study: optuna.Study,
    target: Path,
    model_store: ModelStore | None,
    here: WorkFolders,
    stopping: threading.Event | None,
) -> str | None:
    with locked(target):
        # Asked inside: who waited for the lock may have been overtaken.
        best = best_trial(study)
        if best is None:
            return "no trial has a score yet"
        study_id = study.user_attrs.get(STUDY_ID)
        place = target
        if target.is_symlink():  # to a larger disk, say: replace what it leads to
            place = target.resolve()
        for half in place.parent.glob(f".{place.name}.*.tmp"):  # of a driver that was killed
            shutil.rmtree(half, ignore_errors=True)
        if is_model_of(target, best, study_id):
            return None
        try:
            with new_folder(place.parent, place.name) as aside:
                if not _bring(best, study_id, aside, model_store, here, stopping):
                    return _who_has(best, model_store)
                keep_foreign(place, study_id)
                replace_folder(aside, place)
        except (OSError, DataError) as error:
            return (
                f"the model of trial {best.number} cannot be stored ({reason(error)}); mend that "
                "and run rml-study export, or the same search again"
            )
    return None


@contextlib.contextmanager
def new_folder(parent: Path, name: str) -> Iterator[Path]:
    """Make a folder to fill aside, which others may read, and remove what is left of it."""
    aside = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=parent))
    try:
        aside.chmod(0o755)
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def is_model_of(folder: Path, trial: FrozenTrial, study_id: str | None) -> bool:
    """Say whether a folder holds the model of the attempt by which a trial was told."""
    entry = read_json(folder / TRIAL_FILE)
    is_same = entry.get("study_id") == study_id and entry.get("trial") == trial.number
    if not is_same or entry.get("attempt", _attempt(trial)) != _attempt(trial):
        return False
    return all(is_regular_file(folder.resolve() / file) for file in MODEL_FILES)


def find_model(folders: WorkFolders, trial: FrozenTrial, study_id: str | None) -> Path | None:
    """Return the folder in an output folder that holds a trial's model, None without one."""
    return next((f for f in folders.models if is_model_of(f, trial, study_id)), None)


def reason(error: Exception) -> str:
    """Return an error in a few words."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def find_checkpoint(trial: FrozenTrial, here: WorkFolders) -> WorkFolders | None:
    """Return the folders that have the checkpoint of a trial's model, as it was then.

    They are `here`, wherever they were when the model was described, or where they were then.
    """
    model = model_of(trial)
    checkpoint = model.get("checkpoint")
    if not isinstance(checkpoint, list):
        return None
    for folders in (here, _folders(model)):
        # Another study's may be at the same place: of that name, in a database that was deleted.
        if checkpoint_identity(checkpoint_file(folders, model["entry"])) == checkpoint:
            return folders
    return None


def _bring(
    best: FrozenTrial,
    study_id: str | None,
    aside: Path,
    model_store: ModelStore | None,
    here: WorkFolders,
    stopping: threading.Event | None,
) -> bool:
    """Fill a folder from the checkpoint, a model that is there, or the model store."""
    if (folders := find_checkpoint(best, here)) is not None:
        make_model(model_of(best), aside, folders, stopping)
        return True
    model = model_of(best)
    if not model:
        return False
    name = model.get("artifact")
    source = find_model(here, best, study_id)
    if (
        source is None
        and model_store is not None
        and isinstance(name, str)
        and model_store.get(name, aside, MODEL_FILES)
    ):
        return is_model_of(aside, best, study_id)
    source = source or find_model(_folders(model), best, study_id)
    if source is None:
        return False
    for file in MODEL_FILES:
        copy_file(source.resolve() / file, aside / file, stopping=stopping)
    return is_model_of(aside, best, study_id)  # still: its driver may have replaced it meanwhile


def _attempt(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get(ATTEMPT, 1))


def _folders(model: ModelRecord) -> WorkFolders:
    """Return the folders of the driver that had the model, as they were then."""
    folder, runs = (Path(str(model.get(key, ""))) for key in ("folder", "runs"))
    return WorkFolders(output=folder.parent, study=runs)


def _who_has(best: FrozenTrial, model_store: ModelStore | None) -> str:
    model = model_of(best)
    if not model:
        return f"trial {best.number} is the best, but left no checkpoint"
    where = f"on host {model.get('host')} in {model.get('folder')}"
    if model_store is not None:
        return f"the model of trial {best.number} is not in {model_store.location}; look {where}"
    if model.get("artifact"):
        return (
            f"the model of trial {best.number} is in the study's artifact store; give its place "
            f"with --artifacts, or fetch it {where}"
        )
    if model.get("host") == socket.gethostname():
        return (
            f"the model of trial {best.number} is not in {model['folder']} any more, or not yours "
            "to read"
        )
    return (
        f"the model of trial {best.number} is {where} only; with the same --artifacts on all "
        "nodes each would get it"
    )


def remove_checkpoints(
    folders: WorkFolders,
    number: int,
    *,
    keep: Path | None = None,
    stopping: threading.Event | None = None,
) -> list[str]:
    """Delete the checkpoints of all attempts at a trial that is finished, but for one file.

    The best model is stored; the rest would fill the disk at 130 MB a trial. Returns a line for
    each folder of which something is left.
    """
    left = []
    for half in folders.trial(number).glob(".model.*.tmp"):  # of a driver that was killed
        shutil.rmtree(half, ignore_errors=True)
    for attempt in folders.attempts(number):
        folder = attempt / rundir.CHECKPOINTS
        is_kept = keep is not None and keep.parent == folder
        name = keep.name if keep is not None and is_kept else None
        left.append(remove(folder, keep=name, stopping=stopping))
    return [line for line in left if line is not None]
