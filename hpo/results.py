"""Keeps `best_model/` and `list_acc.json`, each replaced as a whole."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from hpo.artifacts import Shelf
from hpo.errors import HpoError
from hpo.folders import (
    TRIAL_FILE,
    is_regular_file,
    keep_foreign,
    locked,
    read_json,
    replace_folder,
)
from hpo.models import (
    LAYERS_FILE,
    MODEL,
    MODEL_FILE,
    MODEL_FILES,
    describe_model,
    drop_older,
    fetch_best,
)
from hpo.provenance import PROVENANCE
from hpo.space import without_extensions
from hpo.spec import StudySpec
from hpo.storage import STUDY_ID, best_epoch, finished_trials, score
from trainer import rundir
from trainer.errors import DataError
from trainer.keypath import get_path, set_path

_NOTHING = (-math.inf, 0)  # score and negative number of no trial
REWRITE_SHARE = 20  # `list_acc.json` is rewritten for at most a 20th of the time


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A finished trial's model, before it is known whether it is the best.

    `figures` are those beside the score (`hpo.figures`).
    `config` is the trial's config as the worker got it, but with the host's own data paths.
    """

    number: int
    attempt: int
    score: float
    epoch: int
    figures: Mapping[str, float]
    run_dir: Path
    config: Mapping[str, Any]
    params: Mapping[str, Any]
    known_extensions: frozenset[str]


class Results:
    """The two results that a user sees, for one study."""

    def __init__(self, spec: StudySpec, shelf: Shelf | None = None) -> None:
        self._spec = spec
        self._shelf = shelf
        self._lock = threading.Lock()
        self._best = _NOTHING  # of the finished trials that were seen, which change no more
        self._list = TrialList(spec.folders.list_acc)

    def offer(
        self,
        candidate: Candidate,
        study: optuna.Study,
        announce: Callable[[Mapping[str, Any]], bool],
    ) -> str | None:
        """Store a trial's model if it beats every trial of the study; return a warning, if any.

        Of equals the earlier trial is the better. To be called before the trial is told as
        finished, so that who sees it finished finds its model. `announce` records with the trial
        where its model will be, or returns False if the trial is no longer ours. It comes first:
        a driver that is killed here leaves no archive that nobody knows of.
        """
        rank = (candidate.score, -candidate.number)
        with self._lock:
            if self._best > rank:  # nor need the database be asked
                return None
        with self._lock, locked(self._spec.folders.best_model):
            study_id = study.user_attrs.get(STUDY_ID)
            ranks = (
                (value, -trial.number)
                for trial in finished_trials(study)
                if (value := score(trial)) is not None
            )
            best = self._best = max(ranks, default=_NOTHING)
            # Another driver's trial may have stored its model and not be told yet.
            stored = read_json(self._spec.folders.best_model / TRIAL_FILE)
            if stored.get("study_id") == study_id and stored.get("trial") != candidate.number:
                best = max(best, (stored["dice_dataset"], -stored["trial"]))
            if best > rank:
                return None
            checkpoint = (
                candidate.run_dir / rundir.CHECKPOINTS / rundir.checkpoint_file(candidate.epoch)
            )
            if not is_regular_file(checkpoint):
                return (
                    f"trial {candidate.number} is the best so far, but left no checkpoint "
                    f"{rundir.CHECKPOINTS}/{checkpoint.name}: best_model/ is not updated"
                )
            model = describe_model(
                study_id,
                candidate.number,
                attempt=candidate.attempt,
                folder=self._spec.folders.best_model,
                has_shelf=self._shelf is not None,
            )
            if not announce(model):
                return None
            try:
                self._store(candidate, checkpoint, study_id)
            except DataError as error:
                return f"trial {candidate.number} is the best so far, but {error}"
            return self._put(model["artifact"])

    def drop_older_models(self, study: optuna.Study, number: int) -> None:
        """Remove all models but the best one's from the shelf, after trial `number` was told."""
        if self._shelf is None:
            return
        trial = next(t for t in study.get_trials(deepcopy=False) if t.number == number)
        if MODEL in trial.user_attrs:
            drop_older(study, self._shelf)

    def fetch(self, study: optuna.Study) -> str | None:
        """Bring the study's best model here if another node has it; return a warning, if any."""
        return fetch_best(study, self._spec.folders.best_model, self._shelf)

    def _put(self, name: str | None) -> str | None:
        if self._shelf is None or name is None:
            return None
        try:
            self._shelf.put(name, self._spec.folders.best_model.resolve(), MODEL_FILES)
        except HpoError as error:
            return f"{error}; the best model is on this host only"
        return None

    def write_list_acc(self, study: optuna.Study) -> None:
        """Rewrite `list_acc.json` from the database: one entry for each finished trial."""
        with self._lock, locked(self._spec.folders.list_acc):
            self._list.write(study)

    def refresh_list_acc(self, study: optuna.Study) -> None:
        """Rewrite `list_acc.json`, unless that would take a notable share of the search's time.

        It is skipped after trials of seconds in a study of thousands; who ends the search writes
        the list once more.
        """
        if self._list.is_due():
            self.write_list_acc(study)

    def _store(self, candidate: Candidate, checkpoint: Path, study_id: str | None) -> None:
        target = self._spec.folders.best_model
        if target.is_symlink():  # to a larger disk, say: replace what it leads to
            target = target.resolve()
        aside = Path(tempfile.mkdtemp(prefix=".best_model.", suffix=".tmp", dir=target.parent))
        aside.chmod(0o755)
        try:
            rundir.copy_untrusted(checkpoint, aside / MODEL_FILE)
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
                    "dice_per_image": None,
                    **candidate.figures,
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


class TrialList:
    """Writes `list_acc.json`, again and again: a finished trial changes no more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._texts: dict[int, str] = {}
        self._due = 0.0  # `time.monotonic()`

    def is_due(self) -> bool:
        """Say whether writing has taken less than 1 / REWRITE_SHARE of the time since."""
        return time.monotonic() >= self._due

    def write(self, study: optuna.Study) -> None:
        """Write one entry for each finished trial, as `json.dumps(…, indent=2)` would."""
        began = time.monotonic()
        trials = finished_trials(study)
        for trial in trials:
            if trial.number not in self._texts:
                entry = json.dumps(list_entry(trial), indent=2)
                self._texts[trial.number] = textwrap.indent(entry, "  ")
        entries = ",\n".join(self._texts[trial.number] for trial in trials)
        rundir.write_atomic(self._path, f"[\n{entries}\n]\n" if trials else "[]\n")
        now = time.monotonic()
        self._due = now + REWRITE_SHARE * (now - began)


def write_list_acc(study: optuna.Study, path: Path) -> None:
    """Write `list_acc.json` from the database: one entry for each finished trial."""
    TrialList(path).write(study)


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


def list_entry(trial: FrozenTrial) -> dict[str, Any]:
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


def _write_json(path: Path, obj: Any) -> None:
    path.write_text(json.dumps(obj, indent=2) + "\n", encoding="utf-8")
