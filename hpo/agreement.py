"""Lets drivers that start at the same time agree on what a study is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import select
from sqlalchemy.orm import sessionmaker

from hpo.database import locking_engine


def agree(storage: RDBStorage, study_id: int, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Store attributes of a study unless it has them; return all, None if it is a stranger's.

    Of several drivers that start at once the first one's hold. A stranger's study has trials and
    none of the attributes.
    """
    engine = locking_engine(storage)
    with sessionmaker(engine).begin() as session:
        models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
        attribute = models.StudyUserAttributeModel
        rows: Any = session.scalars(select(attribute).where(attribute.study_id == study_id)).all()
        known: dict[str, Any] = {row.key: json.loads(row.value_json) for row in rows}
        is_used = (
            select(models.TrialModel.trial_id)
            .where(models.TrialModel.study_id == study_id)
            .limit(1)
        )
        if not set(wanted) & set(known) and session.scalar(is_used) is not None:
            return None
        missing = {key: value for key, value in wanted.items() if key not in known}
        for key, value in missing.items():
            session.add(attribute(study_id=study_id, key=key, value_json=json.dumps(value)))
    if engine is not storage.engine:
        engine.dispose()
    return known | missing
