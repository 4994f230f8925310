"""Runs a search: one thread per slot, each taking trial after trial until N are finished."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import optuna
from sqlalchemy.exc import SQLAlchemyError

from hpo.errors import HpoError, StorageError, UsageError
from hpo.launchers import Launcher, Slot
from hpo.lease import LeaseOffice, Renewer
from hpo.progress import Reporter, Tally
from hpo.results import Results
from hpo.spec import StudySpec
from hpo.storage import finished_trials, make_pruner, score
from hpo.trial import Outcome, TrialRunner

IDLE_INTERVAL_S = 0.2
NUM_SAME_FAILURES = 3  # in a row: the next would fail alike


class FailureLimitError(HpoError):
    """Too many trials failed; the search stops rather than burn the rest of its time."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search with everything it needs.

    Attributes:
        stopping: set from outside (a signal) to stop the workers and give the trials back.
    """

    spec: StudySpec
    study: optuna.Study
    launcher: Launcher
    slots: Sequence[Slot]
    num_procs: int
    office: LeaseOffice
    results: Results
    reporter: Reporter
    tally: Tally
    stopping: threading.Event
    _failures: _Failures = field(default_factory=lambda: _Failures())

    def run(self) -> None:
        """Run until the study has N finished trials or `stopping` is set.

        Raises:
            FailureLimitError: too many trials failed, or several in a row alike.
            StorageError: the database went away.
        """
        renewer = Renewer(self.office)
        errors: list[BaseException] = []
        threads = [
            threading.Thread(target=self._run_slot, args=(slot, renewer, errors), name=f"slot-{i}")
            for i, slot in enumerate(self.slots)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)  # in steps, so that signals are seen
        except BaseException:
            self.stopping.set()
            for thread in threads:
                thread.join()
            raise
        finally:
            renewer.close()
        if errors:
            raise errors[0]

    def _run_slot(self, slot: Slot, renewer: Renewer, errors: list[BaseException]) -> None:
        try:
            self._take_trials(slot, renewer)
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", error)).splitlines()[0]
            errors.append(StorageError(f"the study's database went away: {reason}"))
            self.stopping.set()
        except BaseException as error:  # noqa: BLE001  # reported by run(), in the main thread
            errors.append(error)
            self.stopping.set()

    def _take_trials(self, slot: Slot, renewer: Renewer) -> None:
        # A study object of its own: it carries the sampler of the trial at hand.
        study = optuna.load_study(
            study_name=self.spec.name,
            storage=self.study._storage,
            pruner=make_pruner(self.spec),
        )
        runner = TrialRunner(
            spec=self.spec,
            study=study,
            launcher=self.launcher,
            slot=slot,
            num_procs=self.num_procs,
            office=self.office,
            renewer=renewer,
            results=self.results,
            reporter=self.reporter,
            stopping=self.stopping,
        )
        while not self.stopping.is_set():
            lease = self.office.claim(self.spec.num_trials)
            if lease is None:
                # All N are taken, but one that still runs elsewhere may yet fail or be given back.
                if len(finished_trials(study)) >= self.spec.num_trials:
                    return
                self.stopping.wait(IDLE_INTERVAL_S)
                continue
            self._account(slot, runner.run(lease))

    def _account(self, slot: Slot, outcome: Outcome) -> None:
        with self._failures.lock:
            self.tally.add(outcome)
            self.reporter.trial_ended(slot.index, outcome, self.tally)
            if outcome.end == "refused" and not self.tally.num_finished:
                # Nothing has worked yet, so it is what all trials share that cannot work.
                raise UsageError(
                    f"trial {outcome.number}: {outcome.message}, and nothing has worked so far; "
                    f"the search stops here:\n{outcome.log_tail}"
                )
            self._failures.add(outcome, limit=max(5, self.spec.num_trials // 4))


class _Failures:
    """Counts failures and says when to give up."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._num_failed = 0
        self._last_message = ""
        self._num_alike = 0

    def add(self, outcome: Outcome, *, limit: int) -> None:
        if outcome.end not in ("failed", "refused"):
            if outcome.counts:
                self._num_alike = 0
            return
        self._num_failed += 1
        alike = outcome.message == self._last_message
        self._num_alike = self._num_alike + 1 if alike else 1
        self._last_message = outcome.message
        if self._num_alike >= NUM_SAME_FAILURES:
            raise FailureLimitError(
                f"{self._num_alike} trials in a row failed alike ({outcome.message}); "
                f"the last one's log ends:\n{outcome.log_tail}"
            )
        if self._num_failed >= limit:
            raise FailureLimitError(
                f"{self._num_failed} trials failed, the last one: {outcome.message}; see its "
                "worker.log"
            )


def current_tally(spec: StudySpec, study: optuna.Study) -> Tally:
    """Return where a study stands before this driver adds to it."""
    finished = finished_trials(study)
    scored = [(value, trial.number) for trial in finished if (value := score(trial)) is not None]
    best = max(scored, key=lambda entry: (entry[0], -entry[1])) if scored else None
    return Tally(spec.num_trials, len(finished), best)
