"""The rule by which a search uses its time, beside a simulation of searches that have an end."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field, replace

import pytest

from hpo.plan.budget import MARGIN, Pace, TimePlan, Trained, pace_of
from hpo.plan.promotion import Standing, rungs, to_promote

RUNGS = (1, 3)  # of nine epochs
Found = tuple[str, int, float]  # state, epochs, seconds


def trained(*found: Found, first_s: float = 12.0, score: float = 0.5) -> list[Trained]:
    return [
        Trained(Standing(number, (score,) * epochs, state), total_s, first_s if epochs else None)  # type: ignore[arg-type]
        for number, (state, epochs, total_s) in enumerate(found)
    ]


def plan(known: list[Trained], left_s: float, levels: tuple[int, ...] = RUNGS) -> TimePlan:
    return TimePlan(known, left_s, levels, 9)


def test_pace_tells_the_start_of_a_worker_from_an_epoch() -> None:
    # A start of 10 s, epochs of 2 s: 12 s until epoch 1, then 10 + 2 * 2, then 10 + 6 * 2.
    known = trained(("paused", 1, 12), ("paused", 3, 26), ("finished", 9, 48), ("paused", 1, 12))
    assert pace_of(known, RUNGS) == Pace(start_s=10, epoch_s=2)
    assert Pace(10, 2).seconds((0, 1, 3, 9)) == 48


def test_all_of_the_first_epoch_is_taken_for_an_epoch_until_one_goes_on() -> None:
    assert pace_of(trained(("paused", 1, 12)), RUNGS) == Pace(start_s=0, epoch_s=12)
    assert pace_of(trained(("running", 0, 0)), RUNGS) is None
    assert pace_of([], RUNGS) is None


def test_one_that_took_long_for_its_first_epoch_changes_no_median() -> None:
    slow = Trained(Standing(9, (0.5,), "paused"), 900, 890)
    known = [*trained(*[("paused", 1, 12.0)] * 4, ("paused", 3, 26.0)), slow]
    assert pace_of(known, RUNGS) == Pace(start_s=10, epoch_s=2)


def test_nothing_begins_once_the_time_is_over() -> None:
    for known in ([], trained(("paused", 1, 12))):
        assert not plan(known, 0).may_start()
        assert not plan(known, -1).may_go_on()


def test_what_is_not_known_holds_nothing_back() -> None:
    assert plan([], 1).may_start()
    assert plan(trained(("running", 0, 0)), 1).may_start()


def test_trial_is_started_only_if_it_could_be_trained_to_its_end() -> None:
    known = trained(("paused", 3, 26), ("finished", 9, 48))
    assert plan(known, 48 * MARGIN).may_start()
    assert not plan(known, 48 * MARGIN - 0.1).may_start()


def test_no_more_are_started_than_can_go_on_as_far_as_the_rule_has_it() -> None:
    known = trained(*[("paused", 1, 12.0)] * 38, ("finished", 9, 48), ("paused", 3, 26))
    spent_s = 38 * 12 + 48 + 26
    needed_s = 0.5 * 41 * 48 - spent_s
    assert plan(known, needed_s).may_start()
    assert not plan(known, needed_s - 1).may_start()
    # Another worker, twice the time.
    known[0] = replace(known[0], standing=replace(known[0].standing, state="running"))
    assert plan(known, needed_s / 2).may_start()


def test_time_is_kept_for_one_that_is_whole() -> None:
    # It needs 26 s more for the first to be whole; a start in between takes 12 s. Slow it is: 2x.
    slow = trained(("paused", 3, 52), ("paused", 3, 26), ("paused", 3, 26), ("paused", 3, 26))
    slow[0] = replace(slow[0], standing=replace(slow[0].standing, values=(0.9,) * 3))
    needed_s = MARGIN * (12 + 2 * 22)
    assert plan(slow, needed_s).may_start()
    assert not plan(slow, needed_s - 1).may_start()


def test_only_those_go_on_that_come_to_their_next_rung() -> None:
    known = trained(("finished", 9, 48), ("paused", 1, 12), ("paused", 3, 26), ("running", 3, 26))
    assert plan(known, 30).may_go_on() == {1, 2}
    assert plan(known, 20).may_go_on() == {1}
    assert plan(known, 10).may_go_on() == set()


def test_furthest_goes_on_as_far_as_it_gets_where_none_is_whole() -> None:
    known = trained(("paused", 1, 12), ("paused", 3, 26))
    assert plan(known, 10).may_go_on() == {1}
    runs = Trained(Standing(2, (0.6,) * 3, "running"), 26, 12)
    assert plan([*known, runs], 10).may_go_on() == set()
    whole = Trained(Standing(2, (0.6,) * 9, "finished"), 48, 12)
    assert plan([*known, whole], 10).may_go_on() == set()


def test_trial_that_is_never_paused_is_started_if_it_is_expected_to_end() -> None:
    known = trained(("finished", 9, 28), ("ended", 4, 18), ("ended", 4, 18))
    assert plan(known, 19, ()).may_start()
    assert not plan(known, 18, ()).may_start()


@dataclass
class Simulated:
    """A search with an end, on curves and seconds that are drawn."""

    total_s: float
    num_epochs: int
    num_slots: int
    seed: int
    start_s: float = 14.0
    epoch_s: float = 30.0
    known: dict[int, Trained] = field(default_factory=dict)
    curves: dict[int, list[float]] = field(default_factory=dict)
    end_s: float = 0.0
    num_cut: int = 0

    def run(self) -> Simulated:
        draw, order = random.Random(self.seed), itertools.count()
        events: list[tuple[float, int, int, int, float]] = []
        num_idle = self.num_slots
        while True:
            while num_idle and (number := self._claim(draw)) is not None:
                begin = self.known[number].num_epochs
                standing = replace(self.known[number].standing, state="running")
                self.known[number] = replace(self.known[number], standing=standing)
                levels = (*rungs(self.num_epochs), self.num_epochs)
                until = next(level for level in levels if level > begin)
                is_first = number == 0 and begin == 0  # it decodes the images
                seconds = self.start_s * draw.uniform(0.9, 1.1) * (9 if is_first else 1)
                seconds += (until - begin) * self.epoch_s * draw.uniform(0.9, 1.1)
                heapq.heappush(events, (self.end_s + seconds, next(order), number, until, seconds))
                num_idle -= 1
            if not events:
                return self
            now, _, number, until, seconds = heapq.heappop(events)
            num_idle += 1
            self._advance(number, until, now, seconds)

    def _claim(self, draw: random.Random) -> int | None:
        left_s = self.total_s - self.end_s
        time_plan = TimePlan(
            [*self.known.values()], left_s, rungs(self.num_epochs), self.num_epochs
        )
        all_started = not time_plan.may_start()
        fitting = time_plan.may_go_on()
        found = [
            replace(each.standing, can_resume=number in fitting)
            for number, each in self.known.items()
        ]
        number = to_promote(
            found,
            rungs(self.num_epochs),
            all_started=all_started,
            num_epochs=self.num_epochs,
            is_timed=True,
        )
        if number is None and not all_started:
            number = len(self.known)
            self.known[number] = Trained(Standing(number, (), "running"))
            top, rate = draw.uniform(0.3, 0.9), draw.uniform(0.05, 0.6)
            self.curves[number] = [
                top * (1 - (1 - rate) ** epoch) for epoch in range(1, self.num_epochs + 1)
            ]
        return number

    def _advance(self, number: int, until: int, now: float, seconds: float) -> None:
        each, state = self.known[number], "finished" if until == self.num_epochs else "paused"
        if now > self.total_s:  # it is ended where it is
            until, state = max(each.num_epochs, until - 1), "ended"
            seconds -= now - self.total_s
            self.num_cut += 1
        self.end_s = min(now, self.total_s)
        self.known[number] = Trained(
            Standing(number, tuple(self.curves[number][:until]), state),  # type: ignore[arg-type]
            (each.total_s or 0.0) + seconds,
            each.first_epoch_s or seconds,
        )

    @property
    def whole(self) -> list[Trained]:
        return [each for each in self.known.values() if each.standing.state == "finished"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("total_s", "num_epochs", "num_slots"),
    [(8 * 3600, 50, 1), (2 * 3600, 50, 4), (3 * 3600, 9, 2), (3600, 50, 16)],
)
def test_search_ends_near_its_end_with_whole_trials_and_the_best_among_them(
    total_s: float, num_epochs: int, num_slots: int, seed: int
) -> None:
    search = Simulated(total_s, num_epochs, num_slots, seed).run()
    assert 0.95 * total_s <= search.end_s <= total_s
    assert len(search.known) > len(search.whole) >= 3
    assert search.num_cut <= 1
    best = max(search.known.values(), key=lambda each: max(each.standing.values))
    assert best in search.whole


@pytest.mark.parametrize("seed", range(6))
def test_little_time_is_kept_for_one_whole_trial(seed: int) -> None:
    whole_s = Pace(14, 30).seconds((0, 1, 3, 9, 27, 50))
    search = Simulated(1.3 * whole_s, 50, 4, seed).run()
    assert search.whole
