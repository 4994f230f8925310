"""The rule of pausing and promoting, beside a simulation that knows every curve."""

import random
from dataclasses import replace

import pytest

from hpo.plan.promotion import Standing, may_go_on, rungs, to_promote

of_random_searches = pytest.mark.parametrize("seed", range(25))


def _search(seed, num_trials, num_epochs, num_slots, eta):
    """Run a search on curves that are drawn; return the standings, curves and promotions."""
    draw = random.Random(seed)
    curves = [[draw.random() for _ in range(num_epochs)] for _ in range(num_trials)]
    levels = rungs(num_epochs, eta)
    known, until, promotions, hopeless = {}, {}, [], set()

    def take():
        all_started = len(known) == num_trials
        order = draw.sample(list(known.values()), len(known))  # it may not depend on the order
        number = to_promote(order, levels, eta, all_started=all_started)
        if number is not None:
            assert number in may_go_on(order, levels, num_trials, eta)
        for dropped in {each.number for each in order if each.state == "paused"} - may_go_on(
            order, levels, num_trials, eta
        ):
            hopeless.add(dropped)
        assert number not in hopeless
        if number is None and not all_started:
            number = len(known)
            known[number] = Standing(number, (), "running")
            until[number] = levels[0] if levels else num_epochs
        elif number is not None:
            epoch = len(known[number].values)
            reached = [each for each in known.values() if len(each.values) >= epoch]
            promotions.append((number, epoch, [each.number for each in reached], all_started))
            known[number] = replace(known[number], state="running")
            until[number] = next((level for level in levels if level > epoch), num_epochs)
        return number

    while True:
        running = [each.number for each in known.values() if each.state == "running"]
        while len(running) < num_slots and (number := take()) is not None:
            running.append(number)
        if not running:
            return known, curves, promotions
        number = draw.choice(running)
        values = tuple(curves[number][: len(known[number].values) + 1])
        state = "running"
        if len(values) == until[number]:
            state = "finished" if len(values) == num_epochs else "paused"
        known[number] = Standing(number, values, state)


def _settings(seed):
    draw = random.Random(1000 + seed)
    return (
        draw.randint(1, 40),
        draw.randint(1, 30),
        draw.choice((1, 2, 4, 16)),
        draw.choice((2, 3, 4)),
    )


@of_random_searches
def test_who_goes_on_is_among_the_best_of_its_rung(seed):
    num_trials, num_epochs, num_slots, eta = _settings(seed)
    _, curves, promotions = _search(seed, num_trials, num_epochs, num_slots, eta)
    for number, epoch, reached, all_started in promotions:
        better = [
            each for each in reached if max(curves[each][:epoch]) > max(curves[number][:epoch])
        ]
        allowed = len(reached) // eta
        assert len(better) < (max(allowed, 1) if all_started else allowed)


@of_random_searches
def test_the_best_of_every_rung_goes_on_to_the_end(seed):
    num_trials, num_epochs, num_slots, eta = _settings(seed)
    known, _, _ = _search(seed, num_trials, num_epochs, num_slots, eta)
    assert len(known) == num_trials
    assert all(each.values for each in known.values())
    finished = [each for each in known.values() if each.state == "finished"]
    assert finished
    for epoch in rungs(num_epochs, eta):
        reached = [each for each in known.values() if len(each.values) >= epoch]
        best = max(reached, key=lambda each: max(each.values[:epoch]))
        assert len(best.values) > epoch
    # So the best score of all that was seen is one of a trial that was not cut short.
    assert max(max(each.values) for each in known.values()) == max(
        max(each.values) for each in finished
    )


@of_random_searches
def test_a_third_goes_on_at_each_rung(seed):
    order = list(range(27))
    random.Random(seed).shuffle(order)
    standings = [Standing(number, (number / 100,), "paused") for number in order]
    promoted = []
    while (number := to_promote(standings, (1, 3), 3)) is not None:
        promoted.append(number)
        standings = [
            replace(each, values=(each.values[0],) * 3) if each.number == number else each
            for each in standings
        ]
        if len(promoted) == 9:
            break
    # The highest rung first: the third that has got there lets the best of them go on.
    assert promoted[:3] == [26, 25, 24]
    assert to_promote(standings, (1, 3), 3) is not None


def test_none_goes_on_unless_compared_with_others_while_there_are_some_to_start():
    standings = [Standing(number, (0.5 + number,), "paused") for number in range(2)]
    assert to_promote(standings, (1, 3), 3) is None
    assert to_promote(standings, (1, 3), 3, all_started=True) == 1


def test_one_that_cannot_be_gone_on_with_here_keeps_its_place():
    standings = [Standing(number, (number / 10,), "paused") for number in range(6)]
    standings[5] = replace(standings[5], can_resume=False)
    assert to_promote(standings, (1,), 3) == 4
    standings[4] = replace(standings[4], state="ended")
    assert to_promote(standings, (1,), 3) is None


def test_rungs_are_powers_below_the_last_third():
    assert rungs(1) == ()
    assert rungs(3) == (1,)
    assert rungs(24) == (1, 3, 9)
    assert rungs(27) == (1, 3, 9)
    assert rungs(10) == (1, 3)  # not 9 of 10
    assert rungs(30) == (1, 3, 9)
    assert rungs(50) == (1, 3, 9, 27)
    assert rungs(50, eta=4, first=2) == (2, 8, 32)
