"""Says how a search uses the time that it has, for one driver and its workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpo.plan.budget import TimePlan, Trained
from hpo.run.pausing import Pausing, standing_of
from hpo.store.pausing import KnownTrial
from trainer.bounded import finite
from trainer.direction import Direction


@dataclass(frozen=True)
class TimePlanning:
    """What may be begun yet: the `Planning` of `hpo.store.pausing`.

    Attributes:
        rungs: the epochs after which this driver's trials are paused; none where they never are.
        num_epochs: of a whole trial.
        direction: which of two scores is the better one.
    """

    rungs: tuple[int, ...]
    num_epochs: int
    direction: Direction

    @classmethod
    def of(cls, num_epochs: int, direction: Direction, pausing: Pausing | None) -> TimePlanning:
        """Return it for trials of so many epochs."""
        is_able = pausing is not None and pausing.is_able
        rungs = pausing.rungs if pausing is not None and is_able else ()
        return cls(rungs, num_epochs, direction)

    def may_start(self, known: Sequence[KnownTrial], left_s: float) -> bool:
        """Say whether another trial may be started."""
        return self._plan(known, left_s).may_start()

    def may_go_on(self, known: Sequence[KnownTrial], left_s: float) -> set[int]:
        """Return the numbers of the paused trials that may go on."""
        return self._plan(known, left_s).may_go_on()

    def _plan(self, known: Sequence[KnownTrial], left_s: float) -> TimePlan:
        trained = [
            Trained(
                standing_of(each, self.direction),
                finite(each.seconds.get("total"), 0),
                finite(each.seconds.get("first_epoch"), 0),
            )
            for each in known
        ]
        return TimePlan(trained, left_s, self.rungs, self.num_epochs)
