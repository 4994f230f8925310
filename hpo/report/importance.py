"""How much each parameter mattered, by PED-ANOVA (Watanabe et al. 2023), as Optuna computes it.

Of all finished trials, the pruned ones with their best epoch's score: where three quarters are
pruned, the complete ones alone say little. A parameter that only some trials have, such as the
learning rate of one optimizer, is judged among those.
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.store.study import score
from trainer.direction import Direction

MAX_TRIALS = 2000  # evenly many of more: the shares are the same, in a fifth of the time
MIN_TRIALS = 10  # of fewer the best tenth is one trial, and chance says what it has


def importances(
    trials: Sequence[FrozenTrial], names: Sequence[str], direction: Direction
) -> dict[str, float]:
    """Return each parameter's share of what all explain together; none of too few trials.

    Args:
        trials: finished, with a score.
        names: parameters that had a choice.
        direction: which of two scores is the better one.
    """
    raw = {
        name: found
        for name in names
        if (found := _importance(trials, name, direction)) is not None
    }
    total = sum(raw.values())
    return {name: value / total for name, value in raw.items()} if total > 0 else {}


def _importance(trials: Sequence[FrozenTrial], name: str, direction: Direction) -> float | None:
    having = [trial for trial in trials if name in trial.params]
    share = len(having) / max(1, len(trials))
    if len(having) < MIN_TRIALS:
        return None
    if len(having) > MAX_TRIALS:
        having = [having[i * len(having) // MAX_TRIALS] for i in range(MAX_TRIALS)]
    study = optuna.create_study(direction=direction.value)
    study.add_trials(
        create_trial(
            state=TrialState.COMPLETE,
            value=score(trial, direction),
            params={name: trial.params[name]},
            distributions={name: trial.distributions[name]},
        )
        for trial in having
    )
    try:
        found = PedAnovaImportanceEvaluator().evaluate(study, params=[name])
    except (ValueError, RuntimeError):  # all scores are equal, say
        return None
    # weighted: what few trials have explains little of the study
    return found[name] * share
