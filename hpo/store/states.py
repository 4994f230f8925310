"""What the states of a trial are called, wherever a person reads them."""

from __future__ import annotations

from typing import Final

from optuna.trial import FrozenTrial, TrialState

NAMES: Final = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def state_name(trial: FrozenTrial) -> str:
    """Return what a trial's state is called."""
    return NAMES[trial.state]
