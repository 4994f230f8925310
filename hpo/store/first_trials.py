"""Puts configurations that are to be tried into the study, each once, before others are sampled.

Each is a trial that waits, with its values as Optuna's `enqueue_trial` has them, and with an
attribute: by both a driver that starts later, or again, knows that it is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Connection, insert, select

from hpo.keys import FIRST, NUM_TRIALS
from hpo.store.agreement import read_agreed
from hpo.store.available import count_trials
from hpo.store.database import locking_engine
from hpo.store.trial_rows import TrialRows

_Study, _Trial = models.StudyModel, models.TrialModel
_Attribute, _Note = models.TrialUserAttributeModel, models.TrialSystemAttributeModel

_VALUES = "fixed_params"  # Optuna's, of what `enqueue_trial` has put there


@dataclass(frozen=True)
class FirstTrial:
    """A configuration to be tried.

    Attributes:
        values: by their names in the study; what is left out is sampled.
    """

    values: Mapping[str, Any]

    @property
    def text(self) -> str:
        """What tells it from others, whoever asks for it; the study tries none twice."""
        # 1 and 1.0 are one value, as JSON two
        return json.dumps(
            {
                key: float(value) if type(value) is int else value
                for key, value in self.values.items()
            },
            sort_keys=True,
        )


def put_first(
    storage: RDBStorage, study_id: int, configurations: Sequence[FirstTrial], total: int
) -> int:
    """Enqueue those that the study has never had, as far as its total allows.

    Args:
        storage: the study's database.
        study_id: the study's.
        configurations: in the order in which they are tried.
        total: trials of the study, unless its drivers have agreed on more.

    Returns:
        How many had no room.
    """
    if not configurations:
        return 0
    engine = locking_engine(storage)
    try:
        with engine.begin() as connection:
            # The lock of the claims, so that numbers and total stay right.
            connection.execute(
                select(_Study.study_id).where(_Study.study_id == study_id).with_for_update()
            )
            agreed = read_agreed(connection, study_id)
            total = max(total, int(agreed.get(NUM_TRIALS) or 0))
            known = _tried(connection, study_id)
            missing = {each.text: each for each in configurations if each.text not in known}
            number, num_taken = count_trials(connection, study_id)
            fitting = list(missing.values())[: max(total - num_taken, 0)]
            for offset, each in enumerate(fitting):
                _enqueue(connection, study_id, number + offset, each)
            return len(missing) - len(fitting)
    finally:
        if engine is not storage.engine:
            engine.dispose()


def _tried(connection: Connection, study_id: int) -> set[str]:
    """Return the texts of what was tried, by its values: the text stored may be another one.

    Earlier releases wrote "like STUDY, 1", for one.
    """
    rows = connection.scalars(
        select(_Note.value_json)
        .join(_Trial, _Trial.trial_id == _Note.trial_id)
        .join(_Attribute, _Attribute.trial_id == _Trial.trial_id)
        .where(_Trial.study_id == study_id, _Note.key == _VALUES, _Attribute.key == FIRST)
    )
    return {FirstTrial(json.loads(row)).text for row in rows}


def _enqueue(connection: Connection, study_id: int, number: int, first: FirstTrial) -> None:
    trial = insert(_Trial).values(number=number, study_id=study_id, state=TrialState.WAITING)
    key: Any = connection.execute(trial).inserted_primary_key
    trial_id = int(key.trial_id)
    note = {"trial_id": trial_id, "key": _VALUES, "value_json": json.dumps(first.values)}
    connection.execute(insert(_Note).values(note))
    TrialRows(connection, trial_id).annotate({FIRST: first.text})
