"""Keeps `best_model/` and `list_acc.json` up to date, each replaced as a whole."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from hpo.errors import HpoError
from hpo.folders import TRIAL_FILE, LockHeldError, keep_foreign, locked, read_json
from hpo.keys import STUDY_ID
from hpo.plan.space import without_extensions
from hpo.plan.spec import StudySpec
from hpo.records import ModelRecord
from hpo.results.artifacts import ArtifactError, ModelStore
from hpo.results.list_acc import TrialList
from hpo.results.model_folder import (
    MODEL_FILES,
    Candidate,
    checkpoint_file,
    describe_model,
    evaluation_config,
    make_model,
    refused_checkpoint,
    trial_entry,
)
from hpo.results.models import (
    drop_older,
    fetch_best,
    find_checkpoint,
    is_model_of,
    model_of,
    new_folder,
    reason,
    remove_checkpoints,
)
from hpo.store.study import COUNTED, best_first, best_trial, finished_trials, trial_rank
from trainer.direction import UNSCORED
from trainer.errors import DataError


class Results:
    """The two results that a user sees, for one study."""

    def __init__(
        self,
        spec: StudySpec,
        model_store: ModelStore | None = None,
        *,
        stopping: threading.Event | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Keep the results of `spec`; `stopping` ends long copies, `warn` takes a line."""
        self._spec = spec
        self._stopping = stopping
        self._warn = warn
        self._model_store = model_store
        self._direction = spec.objective.direction
        self._lock = threading.Lock()
        self._best = UNSCORED  # rank of the finished trials that were seen, which change no more
        self._announced: set[int] = set()  # trials that may be the best when they are told
        self._spared: set[int] = set()  # trials whose checkpoint waits to become `best_model/`
        self._list = TrialList(spec.folders.list_acc)

    def offer(
        self,
        candidate: Candidate,
        study: optuna.Study,
        announce: Callable[[ModelRecord], bool],
    ) -> str | None:
        """Describe a trial's model if it beats every trial of the study; return a warning, if any.

        Of equals the earlier trial is the better. To be called before the trial is told as
        finished, so that who sees it finished finds its model. `announce` records with the trial
        how and where, or returns False if the trial is no longer ours. It comes first: a driver
        that is killed here leaves no archive that is recorded nowhere.
        """
        offered = self._direction.rank(candidate.score, candidate.number)
        with self._lock:
            if self._best > offered:  # nor need the database be asked
                return None
            best = best_trial(study)
            self._best = UNSCORED if best is None else self._rank(best)
            if self._best > offered:
                return None
        entry = trial_entry(candidate, self._spec, study.user_attrs.get(STUDY_ID))
        folders = self._spec.folders
        if problem := refused_checkpoint(checkpoint_file(folders, entry)):
            return (
                f"trial {candidate.number} is the best so far, but {problem}: best_model/ is not "
                "updated"
            )
        try:
            model = describe_model(
                folders,
                entry["study_id"],
                entry,
                network=self._spec.networks[str(candidate.config["layers"])].file,
                config=without_extensions(
                    evaluation_config(candidate.config, self._spec),
                    known=candidate.known_extensions,
                ),
                has_store=self._model_store is not None,
            )
        except OSError as error:
            return f"the model of trial {candidate.number} cannot be stored ({reason(error)})"
        if not announce(model):
            return None
        with self._lock:
            self._announced.add(candidate.number)
        archive = model["artifact"]
        if self._model_store is None or archive is None:
            return None
        if warning := self._put(model, archive, self._model_store):
            announce({**model, "artifact": None, "older": [*model["older"], archive]})
        return warning

    def settle(self, study: optuna.Study, number: int) -> str | None:
        """Bring `best_model/` up to date after trial `number` was told; return a warning, if any.

        Checkpoints of finished trials go, but that of a winner that could not be stored stays.
        """
        with self._lock:
            if number not in self._announced and not self._spared:
                self._remove_checkpoints(number)  # nor need the database be asked
                return None
            warning = self.fetch(study)
            if self._model_store is not None:
                drop_older(study, self._model_store)
            self._clear_checkpoints(study, {number, *self._spared})
            best = best_trial(study)
            self._announced.discard(number)  # last: all of it is done again if the database fails
        # That another node has it is said at the end.
        return warning if best is not None and self._has_checkpoint(best) else None

    def sweep(self, study: optuna.Study) -> None:
        """Remove what killed drivers have left of finished trials: checkpoints, and archives."""
        if self._model_store is not None:
            drop_older(study, self._model_store)
        with self._lock:
            self._clear_checkpoints(study, set(self._spec.folders.trials()))

    def fetch(self, study: optuna.Study) -> str | None:
        """Put the study's best model into `best_model/`; return a line that says why not."""
        folders = self._spec.folders
        try:
            return fetch_best(
                study, folders.best_model, self._model_store, folders, self._stopping
            )
        except ArtifactError as error:
            return str(error)
        except OSError as error:
            return f"{error.filename}: {reason(error)}"

    def _clear_checkpoints(self, study: optuna.Study, numbers: Collection[int]) -> None:
        ended = [
            trial
            for trial in study.get_trials(deepcopy=False)
            if trial.number in numbers and trial.state.is_finished()
        ]
        try:
            self._clear(study, ended)
        except LockHeldError:  # who has it may make a model of any that was the best
            for trial in ended:
                if model := model_of(trial):
                    self._spared.add(trial.number)
                keep = checkpoint_file(self._spec.folders, model["entry"]) if model else None
                self._remove_checkpoints(trial.number, keep)

    def _clear(self, study: optuna.Study, ended: Sequence[FrozenTrial]) -> None:
        folders = self._spec.folders
        with locked(folders.best_model):  # nobody makes a model of them now
            stored = self.stored_trial(study)
            least = UNSCORED if stored is None else self._rank(stored)
            counted = [t for t in ended if t.state in COUNTED and self._rank(t) > least]
            better = best_first(counted, self._direction)
            spared = next(filter(self._has_checkpoint, better), None)
            self._spared = set() if spared is None else {spared.number}
            for trial in ended:
                keep = None
                if trial is spared:
                    keep = checkpoint_file(folders, model_of(trial)["entry"])
                self._remove_checkpoints(trial.number, keep)

    def _rank(self, trial: FrozenTrial) -> tuple[float, int]:
        return trial_rank(trial, self._direction)

    def _remove_checkpoints(self, number: int, keep: Path | None = None) -> None:
        for left in remove_checkpoints(
            self._spec.folders, number, keep=keep, stopping=self._stopping
        ):
            self._warn(left)

    def _has_checkpoint(self, trial: FrozenTrial) -> bool:
        return find_checkpoint(trial, self._spec.folders) is not None

    def _put(self, model: ModelRecord, archive: str, model_store: ModelStore) -> str | None:
        folder = self._spec.folders.trial(model["entry"]["trial"])
        try:
            with new_folder(folder, "model") as aside:
                make_model(model, aside, self._spec.folders, self._stopping)
                model_store.put(archive, aside, MODEL_FILES)
        except (HpoError, OSError, DataError) as error:
            return f"{reason(error)}; the best model is on this host only"
        return None

    def write_list_acc(self, study: optuna.Study) -> None:
        """Rewrite `list_acc.json` from the database: one entry for each finished trial."""
        with self._lock, contextlib.ExitStack() as stack:
            with contextlib.suppress(LockHeldError):  # who has it writes its own once more
                stack.enter_context(locked(self._spec.folders.list_acc))
            self._list.write(study)

    def refresh_list_acc(self, study: optuna.Study) -> None:
        """Rewrite `list_acc.json`, unless that would take a notable share of the search's time.

        It is skipped after trials of seconds in a study of thousands; who ends the search writes
        the list once more.
        """
        if self._list.is_due():
            self.write_list_acc(study)

    def bring_back(self, study: optuna.Study) -> None:
        """Put this study's best model back in its place, if another study's is there."""
        target, study_id = self._spec.folders.best_model, study.user_attrs.get(STUDY_ID)
        with self._lock, contextlib.suppress(LockHeldError), locked(target):
            if read_json(target / TRIAL_FILE).get("study_id") == study_id:
                return
            for kept in sorted(target.parent.glob(f"{target.name}-*")):
                if read_json(kept / TRIAL_FILE).get("study_id") == study_id:
                    keep_foreign(target, study_id)
                    kept.rename(target)
                    return

    def stored_trial(self, study: optuna.Study) -> FrozenTrial | None:
        """Return the finished trial whose model is in `best_model/`.

        None if the model is not this study's, or of an attempt that was never told.
        """
        folder, study_id = self._spec.folders.best_model, study.user_attrs.get(STUDY_ID)
        number = read_json(folder / TRIAL_FILE).get("trial")
        return next(
            (
                trial
                for trial in finished_trials(study)
                if trial.number == number and is_model_of(folder, trial, study_id)
            ),
            None,
        )
