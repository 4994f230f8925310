"""Finds the study's best model wherever it is, and brings it to where it is wanted.

A trial whose model was stored says where in the attribute MODEL. Which of them is the best
follows from the scores in the database: no pointer that two nodes could overwrite.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from hpo.artifacts import Shelf
from hpo.folders import (
    TRIAL_FILE,
    is_regular_file,
    keep_foreign,
    locked,
    read_json,
    replace_folder,
)
from hpo.storage import STUDY_ID, best_trial, score
from trainer import rundir

MODEL = "rml:model"
MODEL_FILE = "best_model_file.pt"
LAYERS_FILE = "layers.json"
MODEL_FILES = (MODEL_FILE, LAYERS_FILE, rundir.CONFIG, TRIAL_FILE)


def describe_model(
    study_id: str | None, number: int, *, attempt: int, folder: Path, has_shelf: bool
) -> dict[str, Any]:
    """Return the attribute MODEL of a trial: host and folder, and its archive on the shelf.

    The archive's name is known before it is written, and those of earlier attempts, whose drivers
    may have been killed, with it: so all can be removed.
    """
    names = [f"{study_id}-trial-{number}-attempt-{each}.tar" for each in range(1, attempt + 1)]
    return {
        "host": socket.gethostname(),
        "folder": str(folder),
        "attempt": attempt,
        "artifact": names[-1] if has_shelf else None,
        "older": names[:-1] if has_shelf else [],
    }


def drop_older(study: optuna.Study, shelf: Shelf) -> None:
    """Remove from the shelf what is not the best trial's.

    Only models of ended trials go, and the best of these can only be followed by a better one: so
    no lock is needed, in whatever order the drivers come here.
    """
    best = best_trial(study)
    keep = best.user_attrs.get(MODEL, {}).get("artifact") if best is not None else None
    for trial in study.get_trials(deepcopy=False):
        model = trial.user_attrs.get(MODEL, {})
        for name in (*model.get("older", ()), model.get("artifact")):
            if trial.state.is_finished() and name is not None and name != keep:
                shelf.remove(name)


def fetch_best(study: optuna.Study, target: Path, shelf: Shelf | None) -> str | None:
    """Put the study's best model into the folder `target`, unless it, or a better one, is there.

    What is there of another study is kept under another name. Returns a line that says why
    nothing was put there, if so: it names who has the model.

    Raises:
        ArtifactError: the shelf does not answer, or holds something else.
    """
    best = best_trial(study)
    if best is None:
        return "no trial has a score yet"
    study_id = study.user_attrs.get(STUDY_ID)
    with locked(target):
        stored = read_json(target / TRIAL_FILE)
        value = score(best)
        assert value is not None
        is_ours = stored.get("study_id") == study_id and "trial" in stored
        # Ours may be a better one, whose trial was stored here and is not told yet.
        if is_ours and (stored["dice_dataset"], -stored["trial"]) >= (value, -best.number):
            return None
        if target.is_symlink():  # to a larger disk, say: replace what it leads to
            target = target.resolve()
        aside = Path(tempfile.mkdtemp(prefix=".best_model.", suffix=".tmp", dir=target.parent))
        aside.chmod(0o755)
        try:
            if not _bring(best, study_id, aside, shelf):
                return _who_has(best, shelf)
            keep_foreign(target, study_id)
            replace_folder(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return None


def _bring(best: FrozenTrial, study_id: str | None, aside: Path, shelf: Shelf | None) -> bool:
    """Fill a folder from the shelf, else from the folder that the trial's driver kept."""
    model = best.user_attrs.get(MODEL, {})
    name = model.get("artifact")
    if shelf is not None and isinstance(name, str) and shelf.get(name, aside, MODEL_FILES):
        return _is_of(aside, best, study_id)
    source = Path(str(model.get("folder", "")))
    if not model or not _is_of(source, best, study_id):
        return False
    for file in MODEL_FILES:
        shutil.copyfile(source / file, aside / file, follow_symlinks=False)
    return _is_of(aside, best, study_id)  # still: its driver may have replaced it meanwhile


def _is_of(folder: Path, trial: FrozenTrial, study_id: str | None) -> bool:
    entry = read_json(folder / TRIAL_FILE)
    is_same = entry.get("study_id") == study_id and entry.get("trial") == trial.number
    return is_same and all(is_regular_file(folder / file) for file in MODEL_FILES)


def _who_has(best: FrozenTrial, shelf: Shelf | None) -> str:
    model = best.user_attrs.get(MODEL)
    if not isinstance(model, dict):
        return f"trial {best.number} is the best, but left no checkpoint"
    where = f"on host {model.get('host')} in {model.get('folder')}"
    if shelf is not None:
        return f"the model of trial {best.number} is not in {shelf.location}; look {where}"
    if model.get("artifact"):
        return (
            f"the model of trial {best.number} is in the study's artifact store; give its place "
            f"with --artifacts, or fetch it {where}"
        )
    return (
        f"the model of trial {best.number} is {where} only; with the same --artifacts on all "
        "nodes each would get it"
    )
