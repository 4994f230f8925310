"""`rml-study show`: one trial."""

from __future__ import annotations

from dataclasses import dataclass

from hpo.command_line import as_options
from hpo.objective import objective_of
from hpo.study.common import find_trial, opened_study, show_json
from hpo.study.options import AsJson, StudyOptions, TrialNumber
from hpo.study.trial_report import describe_trial, show_trial


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Options of `rml-study show`."""

    trial: TrialNumber
    as_json: AsJson = False
    study: StudyOptions


@as_options
def show(options: ShowOptions) -> None:
    """Show all that is known of one trial."""
    with opened_study(options.study) as study:
        found = find_trial(study, options.trial)
        entry = describe_trial(found, objective_of(study.user_attrs))
        if options.as_json:
            show_json(entry)
        else:
            show_trial(entry, with_log=True)
