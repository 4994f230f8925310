"""Lets drivers that start at the same time agree on what a study is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Connection, create_engine, delete, insert, inspect, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import sessionmaker

from hpo.errors import StorageError, UsageError
from hpo.keys import BUDGET, FIRST, IDENTITY, NUM_TRIALS, PAUSED
from hpo.objective import objective_in
from hpo.store import clock
from hpo.store.connections import engine_settings
from hpo.store.damage import refuse_damaged
from hpo.store.database import locking_engine
from hpo.store.databaseurl import parse_url, show_url, why_unreachable
from hpo.store.directions import as_optuna
from hpo.store.schema import check_schema

_COUNTING = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


@contextlib.contextmanager
def noticing_deletion(study_name: str) -> Iterator[None]:
    """Turn Optuna's error in the block about a study that was deleted into one of ours.

    Raises:
        StorageError: the study was deleted while it was used.
    """
    try:
        yield
    except KeyError as error:
        if error.args != (models.NOT_FOUND_MSG,):
            raise
        raise StorageError(
            f"study {study_name!r} was deleted from the database while it was searched; the same "
            "command starts it anew"
        ) from None


def agree(storage: RDBStorage, study_id: int, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Store attributes of a study unless it has them; return all, None of a foreign study.

    Of several drivers that start at once the first one's hold. A foreign study, which another
    program made, has trials and none of the attributes.
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


@dataclass(frozen=True)
class Known:
    """What a database holds of a study.

    Attributes:
        attributes: what its drivers have agreed on; None of a foreign study.
        names: of all studies.
        may_start_over: no trial of it counts, runs or is paused.
    """

    attributes: dict[str, Any] | None
    names: list[str]
    may_start_over: bool


def peek(url: str, name: str) -> Known | None:
    """Look at a study without changing anything; None if there is none, or no database yet.

    Raises:
        StorageError: the database does not answer, or is another program's.
    """
    parsed = parse_url(url)
    file = parsed.database
    if parsed.get_backend_name() == "sqlite" and not (file and Path(file).exists()):
        return None
    try:
        refuse_damaged(parsed)
        engine = create_engine(parsed, **engine_settings(parsed))
        try:
            check_schema(engine)
            with engine.connect() as connection:
                if not inspect(connection).has_table(models.StudyModel.__tablename__):
                    return None
                return _look(connection, name)
        finally:
            engine.dispose()
    except (ImportError, SQLAlchemyError) as error:
        raise StorageError(
            f"--storage {show_url(parsed)}: {why_unreachable(error, parsed)}"
        ) from None


def _look(connection: Connection, name: str) -> Known | None:
    study, attribute, trial = models.StudyModel, models.StudyUserAttributeModel, models.TrialModel
    ids = {row.study_name: row.study_id for row in connection.execute(
        select(study.study_name, study.study_id))}  # fmt: skip
    if name not in ids:
        return None
    attributes = {
        row.key: json.loads(row.value_json)
        for row in connection.execute(
            select(attribute.key, attribute.value_json).where(attribute.study_id == ids[name])
        )
    }
    states = {
        row.state
        for row in connection.execute(select(trial.state).where(trial.study_id == ids[name]))
    }
    has_any = not states.isdisjoint(_COUNTING) or _has_paused(connection, ids[name])
    is_foreign = IDENTITY not in attributes and bool(states)
    return Known(None if is_foreign else attributes, [*ids], not has_any)


def _has_paused(connection: Connection, study_id: int) -> bool:
    """Say whether a trial waits at a rung: it has been trained, and is one of those asked for."""
    trial, attribute = models.TrialModel, models.TrialUserAttributeModel
    query = (
        select(trial.trial_id)
        .join(attribute, attribute.trial_id == trial.trial_id)
        .where(
            trial.study_id == study_id,
            trial.state == TrialState.WAITING,
            attribute.key == PAUSED,
        )
    )
    return connection.scalar(query.limit(1)) is not None


def start_over(storage: RDBStorage, study_id: int, identity: Mapping[str, str]) -> bool:
    """Turn a study into another search, unless a trial of it counts, runs or is paused.

    Returns whether it is.

    Trials that were given back become failed ones, as they were sampled from the old space; the
    old total and budget are deleted. Drivers of the old search notice at their next claim. Who
    has the study open sees the direction that it had.
    """
    engine = locking_engine(storage)
    trial, attribute = models.TrialModel, models.StudyUserAttributeModel
    with sessionmaker(engine).begin() as session:
        models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
        counting = select(trial.trial_id).where(
            trial.study_id == study_id, trial.state.in_(_COUNTING)
        )
        has_any = session.scalar(counting.limit(1)) is not None
        is_free = not has_any and not _has_paused(session.connection(), study_id)
        if is_free:
            session.execute(
                update(trial)
                .where(trial.study_id == study_id, trial.state == TrialState.WAITING)
                .values(state=TrialState.FAIL, datetime_complete=clock.utc_now())
                .execution_options(synchronize_session=False)
            )
            session.execute(
                update(attribute)
                .where(attribute.study_id == study_id, attribute.key == IDENTITY)
                .values(value_json=json.dumps(identity))
                .execution_options(synchronize_session=False)
            )
            direction = models.StudyDirectionModel
            session.execute(
                update(direction)
                .where(direction.study_id == study_id, direction.objective == 0)
                .values(direction=as_optuna(objective_in(identity).direction))
                .execution_options(synchronize_session=False)
            )
            session.execute(
                delete(attribute)
                .where(attribute.study_id == study_id, attribute.key.in_((NUM_TRIALS, BUDGET)))
                .execution_options(synchronize_session=False)
            )
            tried = models.TrialUserAttributeModel  # to be tried again, in the new space
            session.execute(
                delete(tried)
                .where(tried.key == FIRST, tried.trial_id.in_(_trials_of(study_id)))
                .execution_options(synchronize_session=False)
            )
    if engine is not storage.engine:
        engine.dispose()
    return is_free


def _trials_of(study_id: int) -> Any:
    return select(models.TrialModel.trial_id).where(models.TrialModel.study_id == study_id)


def read_agreed(connection: Connection, study_id: int) -> dict[str, Any]:
    """Return what drivers have agreed on: IDENTITY, NUM_TRIALS and BUDGET, if there."""
    attribute = models.StudyUserAttributeModel
    rows = connection.execute(
        select(attribute.key, attribute.value_json).where(
            attribute.study_id == study_id, attribute.key.in_((IDENTITY, NUM_TRIALS, BUDGET))
        )
    )
    return {key: json.loads(value) for key, value in rows}


def check_identity(agreed: Mapping[str, Any], identity: Mapping[str, str]) -> None:
    """Check that no driver that came at the same moment has made it another search.

    Raises:
        UsageError: one has.
    """
    if agreed.get(IDENTITY, identity) != identity:
        raise UsageError(
            "another driver that started at the same time searches something else in this "
            "study; give both the same options, or this one another --study-name"
        )


def agree_on_total(
    connection: Connection, study_id: int, agreed: Mapping[str, Any], num_trials: int
) -> None:
    """Store the number of trials that a driver asks for, if none has asked for as many."""
    attribute = models.StudyUserAttributeModel
    known = agreed.get(NUM_TRIALS)
    if known is None:
        connection.execute(
            insert(attribute).values(
                study_id=study_id, key=NUM_TRIALS, value_json=json.dumps(num_trials)
            )
        )
    elif int(known) < num_trials:
        connection.execute(
            update(attribute)
            .where(attribute.study_id == study_id, attribute.key == NUM_TRIALS)
            .values(value_json=json.dumps(num_trials))
        )
