"""`rml-study requeue`: a failed trial's values once more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.command_line import as_options
from hpo.errors import UsageError
from hpo.keys import NUM_TRIALS, REQUEUED_FROM
from hpo.study.common import find_trial, opened_study, say
from hpo.study.options import StudyOptions, TrialNumber

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class RequeueOptions:
    """Options of `rml-study requeue`."""

    trial: TrialNumber
    study: StudyOptions


@as_options
def requeue(options: RequeueOptions) -> None:
    """Try the values of a failed trial again: the next free slot of any driver takes them."""
    from optuna.trial import TrialState

    from hpo.store.states import state_name

    trial = options.trial
    with opened_study(options.study) as study:
        found = find_trial(study, trial)
        if found.state != TrialState.FAIL:
            raise UsageError(
                f"--trial {trial} is {state_name(found)}; only failed trials are requeued"
            )
        for other in study.get_trials(deepcopy=False):
            if other.user_attrs.get(REQUEUED_FROM) == trial and other.state != TrialState.FAIL:
                raise UsageError(f"--trial {trial} was requeued already, as trial {other.number}")
        if not found.params:
            raise UsageError(f"--trial {trial} failed before its values were sampled")
        study.enqueue_trial(found.params, user_attrs={REQUEUED_FROM: trial})
        new = max(each.number for each in study.get_trials(deepcopy=False))
        say(f"trial {new} waits, with the values of trial {trial}")
        _raise_total(study)


def _raise_total(study: optuna.Study) -> None:
    """Raise the study's total by one where all of it is taken: a failed trial was replaced."""
    from optuna.trial import TrialState

    total = study.user_attrs.get(NUM_TRIALS)
    taken = sum(t.state != TrialState.FAIL for t in study.get_trials(deepcopy=False))
    if isinstance(total, int) and taken > total:
        study.set_user_attr(NUM_TRIALS, taken)
        say(f"the study had its {total} trials already and now has {taken}")
    say("run the same rml-optimize command again, unless a driver is running")
