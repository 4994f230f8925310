"""The retry policy: which attempts are made again, and when a trial or the search gives up.

Which ends of a worker are a crash, which can be made again, is decided in `outcome.py`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from hpo.errors import HpoError
from hpo.records import end_of
from hpo.run.outcome import AttemptResult, End, Outcome
from trainer.wording import counted

FAILED: tuple[End, ...] = ("failed", "refused")
BLAMELESS: tuple[End, ...] = ("unfit", "cut off")
NUM_SAME_FAILURES = 3  # in a row: the next would fail alike
MIN_MAX_FAILED = 5
MORE_DEATHS = 3  # drivers die for reasons of their own more often than workers crash
LAUNCH_DELAYS_S = (1, 2, 5, 10, 20, 30)  # an engine that restarts is back within a minute


class FailureLimitError(HpoError):
    """Too many trials failed; the search stops rather than burn the rest of its time."""


@dataclass(frozen=True, kw_only=True)
class FailurePolicy:
    """What the search does about failures.

    Attributes:
        max_retries: new starts of a trial whose worker crashed, before the trial has failed.
        max_failed: failed trials in the study since this driver began, before the search stops;
            None for a quarter of the study's trials.
        trial_timeout_s: how long this driver lets a trial run, new starts included.
    """

    max_retries: int
    max_failed: int | None = None
    trial_timeout_s: float | None = None

    def is_retried(self, attempt_result: AttemptResult, num_crashes: int) -> bool:
        """Say whether a trial gets another attempt; `num_crashes` of it came before this one."""
        return attempt_result.is_crash and num_crashes < self.max_retries

    def is_deadly(self, num_deaths: int) -> bool:
        """Say whether a trial has failed with which so many drivers in a row have died."""
        return num_deaths > self.max_retries + MORE_DEATHS

    def failures_of(self, num_trials: int) -> int:
        """Return how many failed trials stop a study of that many."""
        return self.max_failed or max(MIN_MAX_FAILED, num_trials // 4)


class FailureCount:
    """Counts failures that are alike and says when to give up; call it with the `lock` held."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._last_cause = ""
        self._num_alike = 0

    def add(self, outcome: Outcome, num_failed: int, max_failed: int) -> None:
        """Count a trial that has ended.

        Args:
            outcome: its end.
            num_failed: trials of the study that failed since this driver began.
            max_failed: how many may.

        Raises:
            FailureLimitError: too many trials failed, or several in a row alike.
        """
        if outcome.end not in FAILED:
            if outcome.counts or outcome.end == "paused":
                self._num_alike = 0
            return
        alike = outcome.cause == self._last_cause
        self._num_alike = self._num_alike + 1 if alike else 1
        self._last_cause = outcome.cause
        if self._num_alike >= NUM_SAME_FAILURES:
            raise FailureLimitError(
                f"{counted(self._num_alike, 'trial')} in a row failed alike ({outcome.message}); "
                f"the last one's log ends:\n{outcome.log_tail}"
            )
        if num_failed >= max_failed:
            raise FailureLimitError(
                f"{counted(num_failed, 'trial')} of the study failed (--max-failed {max_failed}), "
                f"the last one: {outcome.message}; see its worker.log"
            )


def count_failed(study: optuna.Study) -> int:
    """Return how many trials of a study failed, on any node.

    Not those that say nothing against the search: their enqueued values are outside the space, or
    the study's time was over.
    """
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    return sum(end_of(trial.user_attrs).get("end") not in BLAMELESS for trial in failed)


def launch_delay_s(num_refused: int) -> float | None:
    """Return how long to wait before the next start, where a worker could not be started.

    `num_refused` starts in a row could not before this one; None: give up.
    """
    return LAUNCH_DELAYS_S[num_refused] if num_refused < len(LAUNCH_DELAYS_S) else None
