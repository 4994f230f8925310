"""Attaches pictures to a trial that has ended, by Optuna's own artifact function.

Optuna refuses attributes of a finished trial, of which an artifact is one; these say nothing that
a sampler or a score rests on, so they are written past that check, once their files are stored.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from optuna.artifacts import upload_artifact
from optuna.storages import BaseStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection, insert, select

from hpo.results.artifacts import ModelStore

_Attribute = models.TrialSystemAttributeModel
PREFIX = "artifacts:"  # of Optuna's attributes


class _Collected:
    """Takes the attributes that `upload_artifact` sets, in the place of a storage."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.attributes[key] = value


def store_pictures(
    store: ModelStore, trial_id: int, pictures: Mapping[str, bytes]
) -> dict[str, Any]:
    """Store files of a trial, and return the attributes that tell of them.

    Args:
        store: where the files go.
        trial_id: the database's id of the trial.
        pictures: file name -> PNG.
    """
    collected = _Collected()
    with tempfile.TemporaryDirectory() as folder:
        for name, picture in pictures.items():
            path = Path(folder) / name
            path.write_bytes(picture)
            upload_artifact(
                artifact_store=store,
                file_path=str(path),
                study_or_trial=_trial_of(trial_id),
                storage=cast(BaseStorage, collected),
            )
    return collected.attributes


def picture_names(connection: Connection, trial_id: int) -> set[str]:
    """Return the names of the files that a trial has."""
    query = select(_Attribute.value_json).where(
        _Attribute.trial_id == trial_id, _Attribute.key.startswith(PREFIX, autoescape=True)
    )
    known = [json.loads(json.loads(text)) for text in connection.scalars(query)]
    return {meta["filename"] for meta in known if meta}  # None of one that was deleted


def attach(connection: Connection, trial_id: int, attributes: Mapping[str, Any]) -> None:
    """Write what `store_pictures` has returned, but for files that the trial has by now."""
    known = picture_names(connection, trial_id) if attributes else set()
    rows = [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
        for key, value in attributes.items()
        if json.loads(value)["filename"] not in known
    ]
    if rows:
        connection.execute(insert(_Attribute), rows)


def _trial_of(trial_id: int) -> FrozenTrial:
    trial = create_trial(state=TrialState.RUNNING)
    trial._trial_id = trial_id
    return trial
