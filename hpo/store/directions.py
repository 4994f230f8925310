"""Reads which way a study's scores are compared, as Optuna has stored it with the study."""

from __future__ import annotations

from optuna import Study
from optuna.storages import BaseStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from sqlalchemy import Connection, select

from trainer.direction import Direction

_Direction = models.StudyDirectionModel


def direction_in(storage: BaseStorage, study_id: int) -> Direction:
    """Return the direction of a study, which Optuna's cache keeps: it changes with no trial."""
    (first, *_) = storage.get_study_directions(study_id)
    return _named(first)


def direction_of(study: Study) -> Direction:
    """Return the direction of a study."""
    return direction_in(study._storage, study._study_id)


def read_direction(connection: Connection, study_id: int) -> Direction:
    """Return the direction of a study, by a connection that is in a transaction."""
    found = connection.scalar(
        select(_Direction.direction).where(
            _Direction.study_id == study_id, _Direction.objective == 0
        )
    )
    return _named(found)


def as_optuna(direction: Direction) -> StudyDirection:
    """Return what Optuna calls a direction."""
    return StudyDirection[direction.name]


def _named(direction: StudyDirection | None) -> Direction:
    is_minimized = direction == StudyDirection.MINIMIZE
    return Direction.MINIMIZE if is_minimized else Direction.MAXIMIZE
