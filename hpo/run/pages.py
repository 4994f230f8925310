"""Writes what Optuna's dashboard shows of trials and study besides Optuna's own: notes, pictures.

All of it is done by one thread after a trial is told, so that no search waits or fails for it:
what cannot be written is one warning.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import HpoError
from hpo.keys import ATTEMPT, SPENT
from hpo.objective import Objective
from hpo.plan.spec import StudySpec
from hpo.records import EndRecord, about, end_of, run_of
from hpo.report.case_pictures import case_pictures
from hpo.report.curve_picture import curve_picture
from hpo.report.markdown import code
from hpo.report.notes import NotedTrial, score_name, study_note, trial_note
from hpo.results.artifacts import ModelStore
from hpo.results.pictures import attach, picture_names, store_pictures
from hpo.run.final_test import TestScore
from hpo.run.settings import selection_text
from hpo.store.database import DATABASE_ERRORS, locking_engine
from hpo.store.databaseurl import describe_error
from hpo.store.notes import lock_notes, write_note
from hpo.store.study import best_trial, score
from hpo.wording import format_score

Draw = Callable[[], Mapping[str, bytes]]  # returns file name -> PNG

# The dashboard looks through the notes of all trials for each trial, every few seconds: 0.1 s more
# for 200, 0.8 s for 1,000, 4 s for 2,000, 24 s for 5,000.
MAX_NOTED = 1000
MAX_PICTURED = 200  # 20 kB each
MAX_NAME = 30  # characters of a score's name, in a picture
PATIENCE_S, IMPATIENCE_S = 20.0, 2.0  # at the end; where it was stopped there may be seconds left


@dataclass(frozen=True, kw_only=True)
class ToldTrial:
    """A trial that was told, or is paused.

    Attributes:
        trial_id: the database's.
        attempt: whose folder has its logs.
        end: how it ended, or would.
        curve: score by epoch.
        is_paused: it waits to go on.
    """

    trial_id: int
    number: int
    attempt: int
    params: Mapping[str, Any]
    end: EndRecord
    curve: Mapping[int, float]
    is_paused: bool = False


class DashboardPages:
    """The notes and pictures of one study, written in the background."""

    def __init__(
        self,
        spec: StudySpec,
        rdb: RDBStorage,
        study_id: int,
        *,
        open_store: Callable[[], ModelStore],
        warn: Callable[[str], None],
    ) -> None:
        """Start; `warn` takes a line, the same one several times."""
        self._spec, self._study_id = spec, study_id
        self._open_store, self._warn = open_store, warn
        self._reader, self._engine = rdb.engine, locking_engine(rdb)
        self._tasks: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="pages", daemon=True)
        self._thread.start()

    def trial_told(self, trial: ToldTrial, num_trials: int) -> None:
        """Write the note of a trial, of one that is complete also its curve's picture.

        Args:
            trial: the trial.
            num_trials: of the study, as far as is known; a large one's pages would be slow.
        """
        noted = NotedTrial(
            number=trial.number,
            params=trial.params,
            end=trial.end,
            run_dir=str(self._spec.folders.attempt(trial.number, trial.attempt)),
            waits_after=max(trial.curve, default=0) if trial.is_paused else None,
        )
        draw = None
        if trial.end.get("end") == "complete" and trial.curve:
            draw = partial(_curve, trial.number, trial.curve, self._spec.objective)
        self._tasks.put(partial(self._show, trial.trial_id, noted, draw, num_trials))

    def best_told(self, best: FrozenTrial, tested: str | None, num_trials: int) -> None:
        """Add to the best trial its score on the test images, and pictures of its cases."""
        attempt = int(best.user_attrs.get(ATTEMPT, 1))
        draw = partial(case_pictures, self._spec.folders.cases(best.number), best.number, attempt)
        noted = _as_recorded(best, tested)
        self._tasks.put(partial(self._show, best._trial_id, noted, draw, num_trials))

    def search_ended(self, study: optuna.Study) -> None:
        """Say of the trials that were paused, and then told as pruned with all others, that."""
        trials = study.get_trials(deepcopy=False)
        for trial in trials if len(trials) <= MAX_NOTED else ():
            if trial.state == TrialState.PRUNED and SPENT in trial.user_attrs:
                score = TestScore.recorded(study, trial.number)
                noted = _as_recorded(trial, None if score is None else str(score))
                self._tasks.put(partial(self._show, trial._trial_id, noted, None, len(trials)))

    def study_told(self, study: optuna.Study, tested: str | None = None) -> None:
        """Write the study's own note, with its best trial so far."""
        best = best_trial(study)
        found = None
        if best is not None:
            objective = self._spec.objective
            value = format_score(score(best, objective.direction) or 0.0, objective.key)
            found = f"trial {best.number}, {score_name(objective.key)} {value}"
            found += "" if tested is None else f"; {code(tested)}"
        note = study_note(
            self._spec, about(study.user_attrs), host=socket.gethostname(), best=found
        )
        self._tasks.put(partial(self._show_study, note))

    def close(self, *, is_stopped: bool) -> None:
        """Wait a moment for what is left to write."""
        self._tasks.put(None)
        self._thread.join(IMPATIENCE_S if is_stopped else PATIENCE_S)
        if not self._thread.is_alive() and self._engine is not self._reader:
            self._engine.dispose()

    def _show(self, trial_id: int, noted: NotedTrial, draw: Draw | None, num_trials: int) -> None:
        """Write a trial's note and pictures; one transaction, for each waits for the disk."""
        spec = self._spec
        files: Mapping[str, Any] = {}
        if draw is not None and num_trials <= MAX_PICTURED:
            with self._warning():
                files = self._store_new(trial_id, draw())
        with self._engine.begin() as connection:
            if not lock_notes(connection, self._study_id):  # deleted, as the search says
                return
            attach(connection, trial_id, files)
            if num_trials <= MAX_NOTED:
                note = trial_note(
                    noted, selected_on=selection_text(spec), num_epochs=spec.num_epochs
                )
                write_note(connection, self._study_id, trial_id, note)

    def _store_new(self, trial_id: int, pictures: Mapping[str, bytes]) -> Mapping[str, Any]:
        with self._reader.connect() as connection:
            known = picture_names(connection, trial_id)
        new = {name: picture for name, picture in pictures.items() if name not in known}
        return store_pictures(self._store, trial_id, new) if new else {}

    @cached_property
    def _store(self) -> ModelStore:
        return self._open_store()

    def _show_study(self, note: str) -> None:
        with self._engine.begin() as connection:
            if lock_notes(connection, self._study_id):
                write_note(connection, self._study_id, None, note)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            with self._warning():
                task()

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        """Warn of whatever fails, and go on: a search never fails for its pictures."""
        try:
            yield
        except DATABASE_ERRORS as error:
            self._say(describe_error(error, self._reader.url))
        except HpoError as error:
            self._say(str(error))
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            self._say(f"{where}{error.strerror or error}")
        except Exception as error:  # noqa: BLE001
            self._say(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")

    def _say(self, why: str) -> None:
        self._warn(f"notes or pictures of the dashboard are not complete: {why}")


def _as_recorded(trial: FrozenTrial, tested: str | None) -> NotedTrial:
    """Return what the study says of a trial that has ended."""
    return NotedTrial(
        number=trial.number,
        params=trial.params,
        end=end_of(trial.user_attrs),
        run_dir=run_of(trial.user_attrs).get("run_dir", ""),
        tested=tested,
    )


def _curve(number: int, curve: Mapping[int, float], objective: Objective) -> dict[str, bytes]:
    name = objective.key.encode("ascii", "replace").decode()[:MAX_NAME]
    epoch = objective.direction.best_epoch(curve)
    if epoch is None:
        return {}
    best = format_score(curve[epoch], objective.key)
    title = f"trial {number}: {name} {best} at epoch {epoch}"
    return {"curve.png": curve_picture(curve, epoch, title)}
