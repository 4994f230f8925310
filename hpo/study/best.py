"""`rml-study best`: the best trial."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from hpo.command_line import as_options
from hpo.errors import UsageError
from hpo.objective import objective_of
from hpo.study.common import opened_study, show_json
from hpo.study.options import AsJson, StudyOptions
from hpo.study.trial_report import describe_trial, show_trial


@dataclass(frozen=True, kw_only=True)
class BestOptions:
    """Options of `rml-study best`."""

    as_json: AsJson = False
    study: StudyOptions


@as_options
def best(options: BestOptions) -> None:
    """Show the best trial with its parameters and its score on the test images."""
    from hpo.run.final_test import TestScore
    from hpo.store.study import best_of_optuna, best_trial, is_foreign

    with opened_study(options.study) as study:
        trial = best_trial(study)
        if trial is None:
            raise UsageError(
                f"study {study.study_name!r} has no finished trial of rml-optimize yet"
            )
        objective = objective_of(study.user_attrs)
        entry = describe_trial(trial, objective)
        if tested := TestScore.recorded(study, trial.number):
            entry["test"] = asdict(tested)
        other = best_of_optuna(study)
        if other is not None and other.number != trial.number:
            entry["best_of_optuna"] = {
                "trial": other.number,
                objective.key: other.value,
                "is_foreign": is_foreign(other),
            }
        if options.as_json:
            show_json(entry)
        else:
            show_trial(entry, with_log=False)
