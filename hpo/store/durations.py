"""How long a study took."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial

from hpo.store.study import seconds_of


def span_s(trials: Sequence[FrozenTrial]) -> float:
    """Return the seconds from the first trial's start to the last one's end, pauses among them."""
    starts = [trial.datetime_start for trial in trials if trial.datetime_start]
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    return max(0.0, (max(ends) - min(starts)).total_seconds()) if starts and ends else 0.0


def busy_s(trials: Sequence[FrozenTrial]) -> float:
    """Return the seconds that all trials were trained, one after the other."""
    return sum(seconds_of(trial) or 0.0 for trial in trials)
