"""`rml-study plot`: what the pictures of a study show."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from hpo.keys import PAUSED, TOKEN

SPACE = {
    "optimizer.learning_rate[Adam]": FloatDistribution(1e-4, 1e-2, log=True),
    "optimizer.momentum[SGD]": CategoricalDistribution([0.9]),
    "loss.function": CategoricalDistribution(["Dice", "BCE"]),
}


def trial(score: float, state: TrialState, **params: object) -> FrozenTrial:
    named = {name: params[name.split("[")[0].rsplit(".", 1)[-1]] for name in SPACE}
    return optuna.trial.create_trial(
        params=named, distributions=SPACE, value=score, state=state,
        intermediate_values={1: score}, user_attrs={TOKEN: "ours"},
    )  # fmt: skip


def test_parameters_are_drawn_where_there_was_a_choice_and_the_best_is_marked() -> None:
    pytest.importorskip("matplotlib")
    from hpo.study.plot import _parameters

    trials = [
        trial(0.5, TrialState.COMPLETE, learning_rate=1e-3, momentum=0.9, function="Dice"),
        trial(0.8, TrialState.COMPLETE, learning_rate=4e-3, momentum=0.9, function="BCE"),
        trial(0.2, TrialState.PRUNED, learning_rate=2e-4, momentum=0.9, function="BCE"),
    ]
    figure = _parameters(trials)
    loss, rate = [axes for axes in figure.axes if axes.get_visible()]  # no momentum
    assert (loss.get_xlabel(), rate.get_xlabel()) == (
        "loss.function", "optimizer.learning_rate[Adam]",
    )  # fmt: skip
    complete, pruned, best = [c.get_offsets().tolist() for c in rate.collections]
    assert sorted(complete) == [[1e-3, 0.5], [4e-3, 0.8]]
    assert pruned == [[2e-4, 0.2]]
    assert best == [[4e-3, 0.8]]
    assert [label.get_text() for label in loss.get_xticklabels()] == ["BCE", "Dice"]
    columns = [round(x) for c in loss.collections for x, _ in c.get_offsets().tolist()]
    assert columns == [1, 0, 0, 0]  # two complete, one pruned, the best


def test_curves_have_whole_epochs_and_a_legend_of_what_is_there() -> None:
    pytest.importorskip("matplotlib")
    from hpo.study.plot import _curves, _history

    trials = [trial(0.5, TrialState.COMPLETE, learning_rate=1e-3, momentum=0.9, function="Dice")]
    for draw, expected in ((_curves, ["best: trial -1"]), (_history, ["complete", "best"])):
        figure = draw(trials)
        figure.canvas.draw()
        (axes,) = figure.axes
        assert [text.get_text() for text in axes.get_legend().get_texts()] == expected
        shown = [
            tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]
        ]
        assert shown
        assert all(float(tick).is_integer() for tick in shown)


def test_importance_is_drawn_or_said_to_need_more_trials() -> None:
    pytest.importorskip("matplotlib")
    from hpo.study.plot import _importance

    trials = [
        trial(0.1 * n, TrialState.COMPLETE, learning_rate=1e-4 * (n + 1), momentum=0.9,
              function=("Dice", "BCE")[n % 2])
        for n in range(20)
    ]  # fmt: skip
    (axes,) = _importance(trials).axes
    assert {label.get_text() for label in axes.get_yticklabels()} == {
        "loss.function", "optimizer.learning_rate[Adam]",
    }  # fmt: skip
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(1)
    (axes,) = _importance(trials[:3]).axes
    assert "fewer than 10 trials" in [text.get_text() for text in axes.texts]


def test_paused_trial_is_drawn_and_is_not_the_best() -> None:
    pytest.importorskip("matplotlib")
    from hpo.study.plot import _curves, _history, _parameters

    done = trial(0.5, TrialState.COMPLETE, learning_rate=1e-3, momentum=0.9, function="Dice")
    paused = trial(0.8, TrialState.COMPLETE, learning_rate=4e-3, momentum=0.9, function="BCE")
    done.number, paused.number = 0, 1
    paused.state, paused.user_attrs = TrialState.WAITING, {TOKEN: "ours", PAUSED: {"epoch": 1}}
    for draw, labels in (
        (_curves, ["best: trial 0", "paused"]),
        (_history, ["complete", "paused", "best"]),
    ):
        (axes,) = draw([done, paused]).axes
        assert [text.get_text() for text in axes.get_legend().get_texts()] == labels
    _, rate = [axes for axes in _parameters([done, paused]).axes if axes.get_visible()]
    assert rate.collections[-1].get_offsets().tolist() == [[1e-3, 0.5]]
    for draw in (_curves, _history, _parameters):
        draw([paused]).canvas.draw()  # none is finished yet
