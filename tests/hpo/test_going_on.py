"""What goes on when no trial is left to start and none is among the best third of its rung."""

from __future__ import annotations

import pytest

from hpo.plan.promotion import Standing, may_go_on, to_promote

RUNGS, NUM_EPOCHS = (1, 3, 9), 27


def choose(standings: list[Standing], num_epochs: int | None = NUM_EPOCHS) -> int | None:
    return to_promote(standings, RUNGS, all_started=True, num_epochs=num_epochs)


def flat(number: int, score: float, epochs: int, state: str = "paused") -> Standing:
    return Standing(number, (score,) * epochs, state)  # type: ignore[arg-type]


# One is whole; none of the others is the best of its rung.
WHOLE = Standing(0, (0.5,) + (0.6,) * 2 + (0.7,) * 6 + (0.9,) * 18, "finished")


def test_the_curve_that_promises_most_goes_on() -> None:
    # From epoch 3 the others gained 0.1 + 0.2, from epoch 1 another 0.05: the median of two.
    earlier = flat(2, 0.45, 1)
    others = [flat(number, 0.47, 1, "ended") for number in range(3, 9)]
    assert choose([WHOLE, flat(1, 0.49, 3), earlier, *others]) == 2  # 0.80 against 0.79
    assert choose([WHOLE, flat(1, 0.51, 3), earlier, *others]) == 1
    assert choose([WHOLE, flat(1, 0.51, 3), earlier, *others], num_epochs=None) is None


@pytest.mark.parametrize(
    "num_trials, share", [(6, 0.7), (9, 0.7), (20, 0.6), (24, 0.5), (40, 0.5)]
)
def test_half_of_the_cost_of_all_is_spent_and_more_of_a_short_search(
    num_trials: int, share: float
) -> None:
    standings = [WHOLE, *(flat(number, 0.4, 1) for number in range(1, num_trials))]
    num_finished = 0
    while (number := choose(standings)) is not None:
        epochs = next(
            each for each in (*RUNGS, NUM_EPOCHS) if each > len(standings[number].values)
        )
        state = "finished" if epochs == NUM_EPOCHS else "paused"
        num_finished += state == "finished"
        standings[number] = flat(number, 0.4, epochs, state)
    spent = sum(len(each.values) for each in standings)
    cost = num_trials * NUM_EPOCHS
    assert num_finished
    assert share * cost <= spent < share * cost + 18


def test_what_runs_is_counted_up_to_its_next_rung() -> None:
    running = [flat(number, 0.4, 9, "running") for number in range(1, 12)]
    paused = [flat(number, 0.4, 1) for number in range(12, 24)]
    assert choose([WHOLE, *running, *paused]) is None  # 12 of 24 trainings are under way
    assert choose([WHOLE, *running[1:], paused[0], *paused]) is not None


def test_the_state_of_what_was_trained_beyond_the_first_rung_is_kept() -> None:
    known = [flat(number, number / 10, 3 if number < 3 else 1) for number in range(9)]
    assert may_go_on(known, RUNGS, 9) == {0, 1, 2, 8, 7, 6}


def test_a_trial_whose_state_is_elsewhere_is_left_to_others() -> None:
    away = Standing(1, (0.49,), "paused", can_resume=False)
    others = [flat(number, 0.5, 1, "ended") for number in range(3, 9)]
    assert choose([WHOLE, away, flat(2, 0.2, 1), *others]) == 2


def test_nothing_goes_on_where_nothing_is_paused() -> None:
    assert choose([]) is None  # all were a plain Optuna script's, say
    assert choose([WHOLE, flat(1, 0.5, 1, "ended")]) is None


def test_a_paused_trial_without_any_score_is_passed_over() -> None:
    others = [flat(number, 0.4, 1, "ended") for number in range(2, 9)]
    assert choose([WHOLE, Standing(1, (), "paused"), *others]) is None
    assert choose([WHOLE, Standing(1, (), "paused"), flat(9, 0.3, 1), *others]) == 9
