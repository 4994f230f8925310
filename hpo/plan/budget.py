"""Plans a search for a budget of time: which trials may be started yet, and which may go on.

New trials are started as long as the time suffices for what the rule of `hpo.plan.promotion`
spends on so many, and for one to come to its end; else only paused ones go on, until the time is
over. What is not expected to reach its next rung by then is not begun. The seconds of an epoch,
and of a worker's start, are those that the study's trials have recorded; without any, nothing is
held back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from hpo.plan.promotion import Standing, share_of

MARGIN = 1.05  # of what is begun: epochs differ by some per cent; what is late is ended then


@dataclass(frozen=True)
class Trained:
    """How far a trial is, and what that took.

    Attributes:
        total_s: seconds of all its attempts; None where none were recorded.
        first_epoch_s: from the start of its worker to its first epoch.
    """

    standing: Standing
    total_s: float | None = None
    first_epoch_s: float | None = None

    @property
    def num_epochs(self) -> int:
        """Return how many epochs it has."""
        return len(self.standing.values)

    @property
    def first_leg_s(self) -> float | None:
        """Return what its first epoch took, with all that comes before."""
        return self.total_s if self.num_epochs == 1 else self.first_epoch_s


@dataclass(frozen=True)
class Pace:
    """What training takes.

    Attributes:
        start_s: seconds of a worker's start, or of going on with a paused trial.
        epoch_s: seconds of an epoch.
    """

    start_s: float
    epoch_s: float

    def seconds(self, stops: Sequence[int]) -> float:
        """Return the seconds from the first to the last of these epochs, with a pause at each."""
        legs = [end - begin for begin, end in pairwise(stops)]
        return sum(self.start_s + leg * self.epoch_s for leg in legs)


def pace_of(trained: Collection[Trained], rungs: Sequence[int]) -> Pace | None:
    """Return the pace by what trials have recorded, of each figure the median; None before.

    Until one has gone beyond its first epoch, all of that is taken for an epoch's: it is too much.
    """
    resting = [each for each in trained if each.standing.state != "running"]
    first = [each.first_leg_s for each in resting if each.first_leg_s is not None]
    if not first:
        return None
    first_s, epochs = median(first), []
    for each in resting:
        num_starts = 1 + sum(rung < each.num_epochs for rung in rungs)
        if each.total_s is not None and each.num_epochs > num_starts:
            own_s = first_s if each.first_epoch_s is None else each.first_epoch_s
            rest_s = each.total_s - own_s - (num_starts - 1) * first_s
            epochs.append(min(max(rest_s / (each.num_epochs - num_starts), 0.0), first_s))
    epoch_s = median(epochs) if epochs else first_s
    return Pace(start_s=first_s - epoch_s, epoch_s=epoch_s)


@dataclass(frozen=True)
class TimePlan:
    """What may be begun at this moment.

    Attributes:
        trained: all trials that have not failed.
        left_s: seconds until the budget is over.
        rungs: the epochs after which trials are paused; none where they never are.
        num_epochs: of a whole trial.
    """

    trained: Sequence[Trained]
    left_s: float
    rungs: Sequence[int]
    num_epochs: int

    def may_start(self) -> bool:
        """Say whether a new trial may be started.

        It pays only if it could be trained to its end, and if enough of so many can go on. Where
        none is whole yet, it has to leave time for the one that is furthest.
        """
        pace = self._pace
        if pace is None or self.left_s <= 0:
            return self.left_s > 0
        if not self.rungs:
            return self._fits(self._typical_s(pace))
        whole_s = pace.seconds((0, *self.rungs, self.num_epochs))
        first_s = pace.seconds((0, self.rungs[0]))
        ahead = self._ahead()
        reserved_s = 0.0 if ahead is None else self._to_end_s(ahead, pace)
        needed_s = max(whole_s, first_s + reserved_s)
        return self._fits(needed_s) and self._pays(whole_s)

    def may_go_on(self) -> set[int]:
        """Return the paused trials that may go on.

        Where none is whole and nothing fits, the one that is furthest goes on as far as it gets.
        """
        paused = [each for each in self.trained if each.standing.state == "paused"]
        pace = self._pace
        if self.left_s <= 0:
            return set()
        found = {
            each.standing.number
            for each in paused
            if pace is None or self._fits(self._next_s(each, pace))
        }
        ahead = self._ahead()
        if not found and ahead is not None and ahead.standing.state == "paused":
            found.add(ahead.standing.number)
        return found

    @property
    def _pace(self) -> Pace | None:
        return pace_of(self.trained, self.rungs)

    def _fits(self, seconds: float) -> bool:
        return MARGIN * seconds <= self.left_s

    def _pays(self, whole_s: float) -> bool:
        """Say whether one trial more leaves time for what is spent on so many."""
        num_trials = len(self.trained) + 1
        if num_trials == 1:
            return True
        running = sum(each.standing.state == "running" for each in self.trained)
        num_slots = 1 + running  # with the one that is free
        capacity_s = sum(each.total_s or 0.0 for each in self.trained) + num_slots * self.left_s
        return share_of(num_trials) * num_trials * whole_s <= capacity_s

    def _typical_s(self, pace: Pace) -> float:
        """Return how long a trial takes that is not paused: others may have been stopped early."""
        ended = [
            each.total_s
            for each in self.trained
            if each.total_s is not None and each.standing.state in ("finished", "ended")
        ]
        return median(ended) if ended else pace.seconds((0, self.num_epochs))

    def _ahead(self) -> Trained | None:
        """Return the trial that is to be trained to its end, unless one is; of equals the best."""
        if any(each.standing.state == "finished" for each in self.trained):
            return None
        open_ones = [
            each
            for each in self.trained
            if each.standing.state in ("paused", "running") and each.num_epochs
        ]
        return max(
            open_ones,
            key=lambda each: (
                sum(rung <= each.num_epochs for rung in self.rungs),
                max(each.standing.values),
                -each.standing.number,
            ),
            default=None,
        )

    def _next_s(self, each: Trained, pace: Pace) -> float:
        """Return the seconds until a paused trial is at its next rung."""
        return self._slowness(each, pace) * pace.seconds(self._stops(each)[:2])

    def _to_end_s(self, each: Trained, pace: Pace) -> float:
        return self._slowness(each, pace) * pace.seconds(self._stops(each))

    def _stops(self, each: Trained) -> tuple[int, ...]:
        """Return the epochs at which a trial stops from where it is."""
        further = [rung for rung in self.rungs if rung > each.num_epochs]
        return (each.num_epochs, *further, self.num_epochs)

    def _slowness(self, each: Trained, pace: Pace) -> float:
        """Return how many times the usual a trial takes: networks and batches differ.

        The first epoch alone tells nothing, for who comes first on a machine decodes the images.
        """
        passed = [rung for rung in self.rungs if rung < each.num_epochs]
        usual_s = pace.seconds((0, *passed, each.num_epochs))
        if not passed or not each.total_s or not usual_s:
            return 1.0
        return max(1.0, each.total_s / usual_s)
