"""The wall time that a study may take, which its drivers share and which outlives them.

One attribute of the study: the most hours that any driver has asked for, and when the first of
them began, by the database's clock. So a study that was stopped and goes on keeps its end.
`hpo.store.shared_budget` reads and writes it; this module does not import Optuna.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpo.store import clock

OPEN_ENDED = 10**6  # the N of a study that has as many trials as fit into its hours
HOUR_S = 3600


def is_open_ended(num_trials: int) -> bool:
    """Say whether a study has as many trials as fit into its hours."""
    return num_trials >= OPEN_ENDED


@dataclass(frozen=True)
class Budget:
    """A study's budget, as one look at the database found it.

    Attributes:
        hours: all told, pauses of the drivers among them.
        spent_s: how much was over at that moment.
        is_done: nothing was left to start or to go on with.
        read: that moment, by `clock.seconds()`.
    """

    hours: float
    spent_s: float
    is_done: bool
    read: float

    @classmethod
    def of(cls, record: Mapping[str, Any], now: float) -> Budget:
        """Return it from the attribute BUDGET and the database's `clock.database_seconds`."""
        spent_s = now - record["began"]
        return cls(record["hours"], spent_s, bool(record.get("is_done")), clock.seconds())

    @property
    def total_s(self) -> float:
        """Return all of its seconds."""
        return self.hours * HOUR_S

    @property
    def left_s(self) -> float:
        """Return the seconds until the end, below zero after it."""
        return self.total_s - self.spent_s - (clock.seconds() - self.read)
