"""Writes what Optuna's dashboard shows of trials and study besides Optuna's own: notes, pictures.

All of it is done by one thread after a trial is told, so that no search waits or fails for it:
what cannot be written is one warning.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from hpo.keys import ATTEMPT
from hpo.plan.spec import StudySpec
from hpo.records import EndRecord, about, end_of, run_of
from hpo.report.case_pictures import case_pictures
from hpo.report.curve_picture import curve_picture
from hpo.report.markdown import code
from hpo.report.notes import NotedTrial, study_note, trial_note
from hpo.results.artifacts import ModelStore
from hpo.results.pictures import attach_pictures
from hpo.run.settings import selection_text
from hpo.store.database import DATABASE_ERRORS, locking_engine
from hpo.store.databaseurl import describe_error
from hpo.store.notes import write_note
from hpo.store.ranking import peak, peak_epoch
from hpo.store.study import best_trial, score

# The dashboard looks through the notes of all trials for each trial, every few seconds: 0.1 s more
# for 200, 0.8 s for 1,000, 4 s for 2,000, 24 s for 5,000.
MAX_NOTED = 1000
MAX_PICTURED = 200  # 20 kB each
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
        self._url = rdb.engine.url
        self._engine = locking_engine(rdb)
        self._owns_engine = self._engine is not rdb.engine
        self._tasks: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="pages", daemon=True)
        self._thread.start()

    def trial_told(self, trial: ToldTrial, num_trials: int) -> None:
        """Write the note of a trial, of one that is complete also its curve's picture.

        Args:
            trial: the trial.
            num_trials: of the study; a large one's pages would be slow.
        """
        if num_trials <= MAX_NOTED:
            noted = NotedTrial(
                number=trial.number,
                params=trial.params,
                end=trial.end,
                run_dir=str(self._spec.folders.attempt(trial.number, trial.attempt)),
                waits_after=max(trial.curve, default=0) if trial.is_paused else None,
            )
            self._tasks.put(partial(self._note, trial.trial_id, noted))
        if num_trials <= MAX_PICTURED and trial.end.get("end") == "complete" and trial.curve:
            self._tasks.put(partial(self._draw, trial.trial_id, trial.number, trial.curve))

    def best_told(self, best: FrozenTrial, tested: str | None, num_trials: int) -> None:
        """Add to the best trial its score on the test images, and pictures of its cases."""
        attributes = best.user_attrs
        if tested is not None and num_trials <= MAX_NOTED:
            noted = NotedTrial(
                number=best.number,
                params=best.params,
                end=end_of(attributes),
                run_dir=run_of(attributes).get("run_dir", ""),
                tested=tested,
            )
            self._tasks.put(partial(self._note, best._trial_id, noted))
        if num_trials <= MAX_PICTURED:
            attempt = int(attributes.get(ATTEMPT, 1))
            folder = self._spec.folders.cases(best.number)
            find = partial(case_pictures, folder, best.number, attempt)
            self._tasks.put(partial(self._attach, best._trial_id, find))

    def study_told(self, study: optuna.Study, tested: str | None = None) -> None:
        """Write the study's own note, with its best trial so far."""
        best = best_trial(study)
        found = None
        if best is not None:
            found = f"trial {best.number}, dice_dataset {score(best):.4f}"
            found += "" if tested is None else f"; {code(tested)}"
        note = study_note(
            self._spec, about(study.user_attrs), host=socket.gethostname(), best=found
        )
        self._tasks.put(partial(self._write, None, note))

    def close(self, *, is_stopped: bool) -> None:
        """Wait a moment for what is left to write."""
        self._tasks.put(None)
        self._thread.join(IMPATIENCE_S if is_stopped else PATIENCE_S)
        if not self._thread.is_alive() and self._owns_engine:
            self._engine.dispose()

    def _note(self, trial_id: int, trial: NotedTrial) -> None:
        spec = self._spec
        note = trial_note(trial, selected_on=selection_text(spec), num_epochs=spec.num_epochs)
        self._write(trial_id, note)

    def _write(self, trial_id: int | None, note: str) -> None:
        write_note(self._engine, self._study_id, trial_id, note)

    def _draw(self, trial_id: int, number: int, curve: Mapping[int, float]) -> None:
        title = f"trial {number}: dice_dataset {peak(curve):.4f} at epoch {peak_epoch(curve)}"
        self._attach(trial_id, lambda: {"curve.png": curve_picture(curve, title)})

    def _attach(self, trial_id: int, draw: Callable[[], Mapping[str, bytes]]) -> None:
        attach_pictures(self._engine, self._open_store(), trial_id, draw())

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except DATABASE_ERRORS as error:
                self._say(describe_error(error, self._url))
            except OSError as error:
                self._say(f"{error.filename}: {error.strerror}")
            except Exception as error:  # noqa: BLE001  # a search never fails for its pictures
                self._say(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")

    def _say(self, why: str) -> None:
        self._warn(f"notes or pictures of the dashboard are not complete: {why}")
