"""Writes the rows of one trial into Optuna's tables, inside a transaction of the caller's.

Each is written in the place of what has the same key: two statements for any number of rows, the
same for all databases, and writing them again changes nothing.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, delete, func, insert, select, update

from hpo.store import clock

_Trial, _Objective = models.TrialModel, models.TrialValueModel
_Attribute, _Param = models.TrialUserAttributeModel, models.TrialParamModel
_Value = models.TrialIntermediateValueModel


@dataclass(frozen=True)
class TrialRows:
    """The rows of one trial, as one transaction reads and writes them."""

    connection: Connection
    trial_id: int

    def attributes(self, keys: Collection[str]) -> dict[str, Any]:
        """Return the user attributes of those names that the trial has."""
        rows = self.connection.execute(
            select(_Attribute.key, _Attribute.value_json).where(
                _Attribute.trial_id == self.trial_id, _Attribute.key.in_(keys)
            )
        )
        return {key: json.loads(value) for key, value in rows}

    def annotate(self, attributes: Mapping[str, Any]) -> None:
        """Set user attributes."""
        rows = [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
        self._put(_Attribute.key, rows)

    def forget(self, key: str) -> None:
        """Delete a user attribute."""
        self.connection.execute(
            delete(_Attribute).where(_Attribute.trial_id == self.trial_id, _Attribute.key == key)
        )

    def set_params(self, trial: FrozenTrial) -> None:
        """Set the parameters that `trial` has."""
        rows = [
            {
                "param_name": name,
                "param_value": distribution.to_internal_repr(trial.params[name]),
                "distribution_json": distribution_to_json(distribution),
            }
            for name, distribution in trial.distributions.items()
        ]
        self._put(_Param.param_name, rows)

    def report(self, curve: Mapping[int, float]) -> None:
        """Set intermediate values by step."""
        rows = []
        for step, value in curve.items():
            stored, kind = _Value.intermediate_value_to_stored_repr(value)
            rows.append(
                {"step": step, "intermediate_value": stored, "intermediate_value_type": kind}
            )
        self._put(_Value.step, rows)

    def last_step(self) -> int:
        """Return the last step with a value, 0 before the first."""
        query = select(func.max(_Value.step)).where(_Value.trial_id == self.trial_id)
        return self.connection.scalar(query) or 0

    def keep_steps(self, steps: Collection[int]) -> None:
        """Delete the values of all other steps."""
        others = _Value.step.not_in(list(steps))
        self.connection.execute(delete(_Value).where(_Value.trial_id == self.trial_id, others))

    def set_value(self, value: float) -> None:
        """Set the objective's value."""
        stored, kind = _Objective.value_to_stored_repr(value)
        self._put(_Objective.objective, [{"objective": 0, "value": stored, "value_type": kind}])

    def state(self) -> TrialState | None:
        """Return the trial's state."""
        query = select(_Trial.state).where(_Trial.trial_id == self.trial_id)
        return self.connection.scalar(query)

    def set_state(self, state: TrialState, *, ended: dt.datetime | None = None) -> None:
        """Set the trial's state; the time of its end too, if it is one, by default now."""
        columns: dict[str, Any] = {"state": state}
        if state.is_finished():
            columns["datetime_complete"] = ended or clock.utc_now()
        self.connection.execute(
            update(_Trial).where(_Trial.trial_id == self.trial_id).values(columns)
        )

    def _put(self, key: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        table, keys = key.class_, [row[key.key] for row in rows]
        self.connection.execute(
            delete(table).where(table.trial_id == self.trial_id, key.in_(keys))
        )
        self.connection.execute(
            insert(table), [{"trial_id": self.trial_id, **row} for row in rows]
        )
