"""Keeps `best_model/` and `list_acc.json`, each replaced as a whole."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from hpo.space import without_extensions
from hpo.spec import StudySpec
from hpo.storage import STUDY_ID, best_epoch, finished_trials, score
from trainer import rundir
from trainer.keypath import get_path, set_path

MODEL_FILE = "best_model_file.pt"
LAYERS_FILE = "layers.json"
TRIAL_FILE = "trial.json"
PROVENANCE = "rml:provenance"

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux: <fcntl.h>, <linux/fs.h>


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A finished trial's model, before it is known whether it is the best.

    `config` is the trial's config as the worker got it, but with the host's own data paths.
    """

    number: int
    score: float
    epoch: int
    dice_per_image: float | None
    run_dir: Path
    config: Mapping[str, Any]
    params: Mapping[str, Any]
    known_extensions: frozenset[str]


class Results:
    """The two results that a user sees, for one study."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec
        self._lock = threading.Lock()

    def offer(self, candidate: Candidate, study: optuna.Study) -> str | None:
        """Store a trial's model if it beats every trial of the study; return a warning, if any.

        Of equals the earlier trial is the better. To be called before the trial is told as
        finished, so that who sees it finished finds its model.
        """
        with self._lock, locked(self._spec.folders.best_model):
            study_id = study.user_attrs.get(STUDY_ID)
            rivals = [
                (value, -trial.number)
                for trial in finished_trials(study)
                if (value := score(trial)) is not None
            ]
            # Another driver's trial may have stored its model and not be told yet.
            stored = read_json(self._spec.folders.best_model / TRIAL_FILE)
            if stored.get("study_id") == study_id and stored.get("trial") != candidate.number:
                rivals.append((stored["dice_dataset"], -stored["trial"]))
            if any(rival > (candidate.score, -candidate.number) for rival in rivals):
                return None
            checkpoint = (
                candidate.run_dir / rundir.CHECKPOINTS / rundir.checkpoint_file(candidate.epoch)
            )
            if not _is_regular_file(checkpoint):
                return (
                    f"trial {candidate.number} is the best so far, but left no checkpoint "
                    f"{rundir.CHECKPOINTS}/{checkpoint.name}: best_model/ is not updated"
                )
            self._store(candidate, checkpoint, study_id)
        return None

    def write_list_acc(self, study: optuna.Study) -> None:
        """Rewrite `list_acc.json` from the database: one entry for each finished trial."""
        with self._lock, locked(self._spec.folders.list_acc):
            entries = [_entry(trial) for trial in finished_trials(study)]
            rundir.write_atomic(self._spec.folders.list_acc, json.dumps(entries, indent=2) + "\n")

    def _store(self, candidate: Candidate, checkpoint: Path, study_id: str | None) -> None:
        target = self._spec.folders.best_model
        if target.is_symlink():  # to a larger disk, say: replace what it leads to
            target = target.resolve()
        aside = Path(tempfile.mkdtemp(prefix=".best_model.", suffix=".tmp", dir=target.parent))
        aside.chmod(0o755)
        try:
            shutil.copyfile(checkpoint, aside / MODEL_FILE)
            network = self._spec.networks[str(candidate.config["layers"])]
            shutil.copyfile(self._spec.folders.inputs / network.file, aside / LAYERS_FILE)
            config = without_extensions(
                evaluation_config(candidate.config, self._spec), known=candidate.known_extensions
            )
            _write_json(aside / rundir.CONFIG, {"neural_network": config})
            _write_json(
                aside / TRIAL_FILE,
                {
                    "study": self._spec.name,
                    "study_id": study_id,
                    "trial": candidate.number,
                    "epoch": candidate.epoch,
                    "selected_on": self._spec.select_on,
                    "dice_dataset": candidate.score,
                    "dice_per_image": candidate.dice_per_image,
                    "params": dict(candidate.params),
                },
            )
            keep_foreign(target, study_id)
            replace_folder(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def bring_back(self, study: optuna.Study) -> None:
        """Put this study's best model back in its place, if another study's is there."""
        target, study_id = self._spec.folders.best_model, study.user_attrs.get(STUDY_ID)
        with self._lock, locked(target):
            if read_json(target / TRIAL_FILE).get("study_id") == study_id:
                return
            for kept in sorted(target.parent.glob(f"{target.name}-*")):
                if read_json(kept / TRIAL_FILE).get("study_id") == study_id:
                    keep_foreign(target, study_id)
                    kept.rename(target)
                    return

    def owner(self, study: optuna.Study) -> int | None:
        """Return the trial whose model is in `best_model/`, None if it is not this study's."""
        entry = read_json(self._spec.folders.best_model / TRIAL_FILE)
        is_ours = entry.get("study_id") == study.user_attrs.get(STUDY_ID)
        return int(entry["trial"]) if is_ours and "trial" in entry else None


def evaluation_config(config: Mapping[str, Any], spec: StudySpec) -> dict[str, Any]:
    """Return the config that evaluates a trial's model, from the folder that it is in."""
    result: dict[str, Any] = json.loads(json.dumps(config))
    for key in ("input_path", "target_path"):
        result["data"].pop(key, None)
    result["layers"] = f"./{LAYERS_FILE}"
    result["checkpoints"] = {"load": f"./{MODEL_FILE}"}
    result["relative_to"] = "config"
    result.pop("num_epochs", None)
    if spec.survey.coding.kind in ("binary", "classes"):
        set_path(result, "data.mask_values", list(spec.survey.coding.values))
    return result


def _entry(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial as the tutorial's list has it, with more after the tutorial's five keys."""
    provenance = trial.user_attrs.get(PROVENANCE, {})
    config = provenance.get("config", {})
    return {
        "max_acc": score(trial),
        "optimizer": get_path(config, "optimizer.type"),
        "lr": get_path(config, "optimizer.learning_rate"),
        "loss": get_path(config, "loss.function"),
        "epoch_max_acc": best_epoch(trial),
        "number": trial.number,
        "state": trial.state.name,
        "seconds": trial.duration.total_seconds() if trial.duration else None,
        "epochs": max(trial.intermediate_values, default=0),
        "params": trial.params,
        "seed": config.get("seed"),
        "host": provenance.get("host"),
    }


def _is_regular_file(path: Path) -> bool:
    # The folder was written by a worker that we don't trust: no links to elsewhere.
    try:
        return stat.S_ISREG(path.lstat().st_mode) and not path.parent.is_symlink()
    except OSError:
        return False


def _write_json(path: Path, obj: Any) -> None:
    path.write_text(json.dumps(obj, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, an empty one where there is no such file or no object."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entry if isinstance(entry, dict) else {}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep the other drivers of this output folder away from a file or folder in it."""
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file closes, killed or not
        yield


def keep_foreign(folder: Path, study_id: str | None) -> None:
    """Move what is not this study's best model out of the way, to a name that is free."""
    if not folder.is_dir():
        return
    entry = read_json(folder / TRIAL_FILE)
    if "study_id" in entry and entry["study_id"] == study_id:
        return
    name = f"{folder.name}-{entry.get('study', 'before')}"
    free = folder.with_name(name)
    number = 2
    while free.exists():
        free = folder.with_name(f"{name}-{number}")
        number += 1
    folder.rename(free)


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`; what was there ends up at `new`.

    On Linux both names are exchanged in one step. Elsewhere, and on file systems that cannot, the
    old folder is renamed away first: for a moment nothing is there.
    """
    if not target.exists():
        new.rename(target)
        return
    if not _exchange(new, target):
        away = target.with_name(f".{target.name}.{os.getpid()}.old")
        target.rename(away)
        new.rename(target)
        away.rename(new)


def _exchange(first: Path, second: Path) -> bool:
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = (os.fsencode(first), os.fsencode(second))
    code = renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    return bool(code == 0)
