"""The rule by which trials are paused and promoted: asynchronous successive halving.

A trial is paused at each rung, and goes on if it is among the best 1/eta of all trials that have
reached that rung (Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020). So a
poor one costs an epoch, and one that was paused too early is not lost: as more trials come to the
rung, more of them may go on.

While there are trials to start, 1/eta is rounded down, so that no trial goes on before it has
been compared with eta - 1 others. Once all are started, the best at each rung goes on in any
case: so one trial at least is trained to its end, and the best at the last rung always is.

That costs a sixth of training all, and it often misses the best, for a curve says little after an
epoch or three. So then the paused trial goes on whose curve promises most, until half of what
training all would cost is spent (in a search of less than 24, that of 12 trials, but no more than
seven tenths). A curve is extrapolated by what the others gained: its best so
far, plus the median gain from its rung to the next, from there to the one after, and so on, of all
that were trained as far. `benchmarks/search_efficiency.py` compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

ETA = 3
# Of what training all would cost. Of 66 recorded curves the best is lost in 22 % of the orders
# without, in 15 % at 0.3, in 5 % at 0.4, in none at 0.5.
SPENT = 0.5
# A short search has few curves to tell by: of 12 trials the best is lost in 5 % of the orders at
# 0.5, in 2 % at 0.7; of 6 in 17 and 9 %.
NUM_SURE, SPENT_SHORT = 12, 0.7


@dataclass(frozen=True)
class Standing:
    """How far a trial is.

    Attributes:
        number: the trial's; of equals the first goes on.
        values: score after each epoch, from the first on; more is better (`Direction.rising`).
        state: "ended" of one that was stopped or came to grief, and is not gone on with.
        can_resume: whether who asks can go on with it.
    """

    number: int
    values: tuple[float, ...]
    state: Literal["paused", "running", "finished", "ended"]
    can_resume: bool = True


def rungs(num_epochs: int, eta: int = ETA, first: int = 1) -> tuple[int, ...]:
    """Return the epochs after which trials are paused.

    None in the last third: what is left to save there does not pay for pausing and going on.
    """
    found, epoch = [], first
    while 3 * epoch <= 2 * num_epochs:
        found.append(epoch)
        epoch *= eta
    return tuple(found)


def to_promote(
    standings: Iterable[Standing],
    rungs: Sequence[int],
    eta: int = ETA,
    *,
    all_started: bool = False,
    num_epochs: int | None = None,
    is_timed: bool = False,
) -> int | None:
    """Return the paused trial to go on with: the best of the highest rung that has one.

    Args:
        standings: of all trials, in any order.
        rungs: the epochs after which trials are paused.
        eta: one of so many goes on.
        all_started: no further trial will be started.
        num_epochs: of a whole trial; None to stop when no trial is among the best 1/eta.
        is_timed: the time that is left decides how much is spent.
    """
    known = list(standings)
    if not any(map(_waits, known)):
        return None
    for epoch in sorted(rungs, reverse=True):
        for each in _best(known, epoch, eta, all_started):
            if _waits(each) and _rung(each, rungs) == epoch:
                return each.number
    if not all_started or num_epochs is None:
        return None
    limit = None if is_timed else share_of(len(known))
    return _most_promising(known, (*rungs, num_epochs), limit)


def _most_promising(
    known: Sequence[Standing], stages: Sequence[int], limit: float | None
) -> int | None:
    """Return the paused trial whose curve is to end highest; None if enough was spent."""
    spent = sum(
        # one that runs will come to its next rung
        next((stage for stage in stages if stage > len(each.values)), stages[-1])
        if each.state == "running"
        else len(each.values)
        for each in known
    )
    if limit is not None and spent >= limit * len(known) * stages[-1]:
        return None
    ahead: dict[int, float] = {stages[-1]: 0.0}  # stage -> what is gained from there to the end
    for start, end in reversed(list(pairwise(stages))):
        gains = [
            max(each.values[:end]) - max(each.values[:start])
            for each in known
            if len(each.values) >= end
        ]
        ahead[start] = ahead[end] + (median(gains) if gains else 0.0)
    best = max(
        filter(_waits, known),
        key=lambda each: (
            max(each.values) + ahead.get(_rung(each, stages) or 0, 0.0),
            -each.number,
        ),
    )
    return best.number


def _waits(standing: Standing) -> bool:
    """Say whether a trial may be gone on with; one without any score promises nothing."""
    return standing.state == "paused" and standing.can_resume and bool(standing.values)


def share_of(num_trials: int) -> float:
    """Return how much of the cost of training all is spent at most, quotas aside."""
    return min(SPENT_SHORT, max(SPENT, NUM_SURE / num_trials))


def may_go_on(
    standings: Iterable[Standing], rungs: Sequence[int], num_trials: int, eta: int = ETA
) -> set[int]:
    """Return the paused trials that may be promoted yet: of the others no state is needed.

    At most `num_trials` come to a rung, so the best of as many are all that ever goes on by its
    quota. Later any may, but one of the first rung starts anew at little cost.
    """
    known, found = list(standings), set()
    for epoch in rungs:
        reached = sum(len(each.values) >= epoch for each in known)
        num_best = max(num_trials, reached) // eta or 1
        ranked = _ranked(known, epoch)
        found |= {
            each.number
            for each in (ranked[:num_best] if epoch == rungs[0] else ranked)
            if each.state == "paused" and _rung(each, rungs) == epoch
        }
    return found


def _best(known: Iterable[Standing], epoch: int, eta: int, all_started: bool) -> list[Standing]:
    """Return the trials that may go on after an epoch, the best first."""
    ranked = _ranked(known, epoch)
    return ranked[: max(len(ranked) // eta, int(all_started))]


def _ranked(known: Iterable[Standing], epoch: int) -> list[Standing]:
    """Return the trials that have reached an epoch, the best by then first."""
    reached = [each for each in known if len(each.values) >= epoch]
    return sorted(reached, key=lambda each: (-max(each.values[:epoch]), each.number))


def _rung(standing: Standing, rungs: Sequence[int]) -> int | None:
    """Return the last rung that a trial has reached."""
    return max((epoch for epoch in rungs if epoch <= len(standing.values)), default=None)
