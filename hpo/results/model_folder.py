"""What is in `best_model/`: its files, what each says, and how they are made from a checkpoint.

`test.json` comes to them later, from the final test (`hpo.run.final_test`).
"""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hpo.folders import TRIAL_FILE, WorkFolders, is_regular_file, read_json
from hpo.objective import Objective
from hpo.records import ModelEntry, ModelRecord
from hpo.results.provenance import MAX_BYTES
from hpo.worker_files import MAX_MODEL_BYTES, copy_file
from trainer import rundir
from trainer.keypath import copy_config, set_path

if TYPE_CHECKING:  # what fetches a model only need not load all that a search is made of
    from hpo.plan.spec import StudySpec

MODEL_FILE = "best_model_file.pt"
LAYERS_FILE = "layers.json"
MODEL_FILES = (MODEL_FILE, LAYERS_FILE, rundir.CONFIG, TRIAL_FILE)  # all, or it is no model
TEST_FILE = "test.json"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A finished trial's model, before it is known whether it is the best.

    `figures` are those beside the score, `classes` each class's Dice (`hpo.results.metrics`).
    `config` is the trial's config as the worker got it, but with the host's own data paths.
    """

    number: int
    attempt: int
    score: float
    epoch: int
    figures: Mapping[str, float]
    classes: Mapping[str, float | None]
    config: Mapping[str, Any]
    params: Mapping[str, Any]
    known_extensions: frozenset[str]


def trial_entry(candidate: Candidate, spec: StudySpec, study_id: str | None) -> ModelEntry:
    """Return what `trial.json` says of a model."""
    entry = {
        "study": spec.name,
        "study_id": study_id,
        "trial": candidate.number,
        "attempt": candidate.attempt,
        "epoch": candidate.epoch,
        "selected_on": spec.select_on,
        **_score(candidate, spec.objective),
        **({"dice_per_class": dict(candidate.classes)} if candidate.classes else {}),
        "params": dict(candidate.params),
    }
    return cast("ModelEntry", entry)


def _score(candidate: Candidate, objective: Objective) -> dict[str, Any]:
    """Return the score, named, with the other figures of its epoch."""
    figures = {"dice_dataset": None, "dice_per_image": None, **candidate.figures}
    if objective.is_default:  # as the test log has it
        return {**figures, "dice_dataset": candidate.score}
    how = {"direction": objective.direction} if objective.direction.is_lower_better else {}
    return {"objective": objective.key, **how, "score": candidate.score, **figures}


def evaluation_config(config: Mapping[str, Any], spec: StudySpec) -> dict[str, Any]:
    """Return the config that evaluates a trial's model, from the folder that it is in."""
    result = copy_config(config)
    for key in ("input_path", "target_path"):
        result["data"].pop(key, None)
    result["layers"] = f"./{LAYERS_FILE}"
    result["checkpoints"] = {"load": f"./{MODEL_FILE}"}
    result["relative_to"] = "config"
    result["written_at"] = str(spec.folders.best_model.absolute())
    result.pop("num_epochs", None)
    if spec.survey.coding.kind in ("binary", "classes"):
        set_path(result, "data.mask_values", list(spec.survey.coding.values))
    return result


def make_model(
    model: ModelRecord,
    aside: Path,
    folders: WorkFolders,
    stopping: threading.Event | None = None,
) -> None:
    """Fill a folder with the model that an attribute MODEL describes, from its checkpoint.

    Args:
        model: the attribute.
        aside: the folder.
        folders: those that the checkpoint is in.
        stopping: set when the driver is to stop.

    Raises:
        EndingError: it is.
        OSError: the disk is full, say.
        DataError: the checkpoint is none.
    """
    copy_file(checkpoint_file(folders, model["entry"]), aside / MODEL_FILE, stopping=stopping)
    network = folders.inputs / Path(model["network"]).name
    shutil.copyfile(network, aside / LAYERS_FILE, follow_symlinks=False)
    config = model["config"] or read_json(_long_config(folders, model["entry"]))
    _write_json(aside / rundir.CONFIG, {"neural_network": config})
    _write_json(aside / TRIAL_FILE, model["entry"])


def copy_model(
    best_model: Path, run_dir: Path, stopping: threading.Event | None = None
) -> dict[str, Any]:
    """Make a run folder with copies of a model's files; return its `neural_network` object.

    Raises:
        EndingError: `stopping` was set meanwhile.
        OSError: the disk is full, say.
        DataError: a file is none that is copied.
    """
    run_dir.mkdir(parents=True)
    for name in (MODEL_FILE, LAYERS_FILE):
        # through a link the worker could write to the best model
        copy_file(best_model.resolve() / name, run_dir / name, stopping=stopping)
    config = json.loads((best_model / rundir.CONFIG).read_text(encoding="utf-8"))
    return dict(config["neural_network"])


def describe_model(
    folders: WorkFolders,
    study_id: str | None,
    entry: ModelEntry,
    *,
    network: str,
    config: Mapping[str, Any],
    has_store: bool,
) -> ModelRecord:
    """Return the attribute MODEL of a trial whose checkpoint is there.

    The archive's name is known before it is written, and those of earlier attempts, whose drivers
    may have been killed, with it: so all can be removed.

    Args:
        entry: what `trial.json` will say.
        network: the network's file in the inputs folder.
        config: evaluates the model, from the folder that it will be in.

    Raises:
        OSError: the config is too long for a database, and the disk is full.
    """
    number, attempt = entry["trial"], entry["attempt"]
    is_long = len(json.dumps(config)) > MAX_BYTES
    if is_long:
        _write_json(_long_config(folders, entry), config)
    names = [f"{study_id}-trial-{number}-attempt-{each}.tar" for each in range(1, attempt + 1)]
    return {
        "host": socket.gethostname(),
        "folder": str(folders.best_model),
        "runs": str(folders.study),
        "attempt": attempt,
        "artifact": names[-1] if has_store else None,
        "older": names[:-1] if has_store else [],
        "checkpoint": checkpoint_identity(checkpoint_file(folders, entry)),
        "network": network,
        "config": None if is_long else dict(config),
        "entry": entry,
    }


def checkpoint_file(folders: WorkFolders, entry: ModelEntry) -> Path:
    """Return the checkpoint of which a model is made, whose `trial.json` is `entry`."""
    run_dir = folders.attempt(int(entry["trial"]), int(entry["attempt"]))
    return run_dir / rundir.CHECKPOINTS / rundir.checkpoint_file(int(entry["epoch"]))


def refused_checkpoint(file: Path) -> str | None:
    """Say why no model can be made of a checkpoint, None if one can."""
    found = f"{rundir.CHECKPOINTS}/{file.name}"
    if not is_regular_file(file):
        return f"left no checkpoint {found}"
    size = file.lstat().st_size
    return None if size <= MAX_MODEL_BYTES else f"left {found}: {size} bytes, more than we take"


def checkpoint_identity(file: Path) -> list[int] | None:
    """Return size and time of a regular file; None if there is none."""
    if not is_regular_file(file):
        return None
    status = file.lstat()
    return [status.st_size, int(status.st_mtime)]


def _write_json(path: Path, obj: Any) -> None:
    path.write_text(json.dumps(obj, indent=2) + "\n", encoding="utf-8")


def _long_config(folders: WorkFolders, entry: ModelEntry) -> Path:
    return folders.attempt(int(entry["trial"]), int(entry["attempt"])).with_suffix(".model.json")
