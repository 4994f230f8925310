"""Which failures of a study count towards `--max-failed`."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState, create_trial

from hpo.keys import END
from hpo.run.search import count_failed


def test_enqueued_values_outside_the_space_are_no_failures_of_the_search() -> None:
    study = optuna.create_study()
    ends = ({END: {"end": "failed"}}, {END: {"end": "unfit"}}, {END: {"end": "refused"}}, {})
    for attributes in ends:  # the last one's by a script that told it itself
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=attributes))
    assert count_failed(study) == 3
