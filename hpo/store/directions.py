"""Reads which way a study's scores are compared, as Optuna has stored it with the study."""

from __future__ import annotations

from optuna import Study
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from trainer.direction import Direction


def direction_in(storage: BaseStorage, study_id: int) -> Direction:
    """Return the direction of a study; it never changes, and Optuna's cache keeps it."""
    (first, *_) = storage.get_study_directions(study_id)
    return Direction.MINIMIZE if first == StudyDirection.MINIMIZE else Direction.MAXIMIZE


def direction_of(study: Study) -> Direction:
    """Return the direction of a study."""
    return direction_in(study._storage, study._study_id)
