"""When trials began, and how long a study took.

Optuna's `datetime_start` is that of a trial's last attempt, or the time that it was paused would
count as its own; the first start of a trial that was taken again is the attribute BEGAN.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from hpo.keys import BEGAN
from hpo.records import read_began
from hpo.store.study import seconds_of


def first_start(trial: FrozenTrial) -> dt.datetime | None:
    """Return when a trial was first taken, in local time as Optuna's `datetime_start`."""
    began = read_began(trial.user_attrs.get(BEGAN))
    if began is None:  # it was taken once only, or by an earlier release
        return trial.datetime_start
    return began.replace(tzinfo=dt.UTC).astimezone().replace(tzinfo=None)


def study_start(trials: Sequence[FrozenTrial]) -> dt.datetime | None:
    """Return the first start of any of some trials."""
    return min(filter(None, map(first_start, trials)), default=None)


def span_s(trials: Sequence[FrozenTrial]) -> float:
    """Return the seconds from the first trial's start to the last one's end, pauses among them."""
    start = study_start(trials)
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    return max(0.0, (max(ends) - start).total_seconds()) if start and ends else 0.0


def busy_s(trials: Sequence[FrozenTrial]) -> float:
    """Return the seconds that all trials were trained, one after the other."""
    return sum(seconds_of(trial) or 0.0 for trial in trials)
