"""What the dashboard's pages read: a study without its records, pictures as they come."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import bottle
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import func, select

from hpo.keys import ATTEMPT, OURS, TITLE, TOKEN
from hpo.results.pictures import PREFIX

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

_Trial, _Attribute = models.TrialModel, models.TrialSystemAttributeModel


class PagesStorage(_CachedStorage):
    """Optuna's own cache, for the dashboard.

    The pages print each attribute in one line of up to 1,024 characters. What this program records
    for itself is left out: notes say in words what of it matters, `rml-study show` prints it all.
    """

    def __init__(self, rdb: RDBStorage) -> None:
        super().__init__(rdb)
        self._num_pictures: dict[int, int] = {}  # by study

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return the trials, with the pictures that some got after they had ended."""
        # The cache holds a finished trial as it was, and pictures are attached a moment later.
        num_pictures = self._count_pictures(study_id)
        if self._num_pictures.get(study_id, 0) != num_pictures:
            with self._lock:
                self._studies.pop(study_id, None)
            self._num_pictures[study_id] = num_pictures
        trials = super().get_all_trials(study_id, deepcopy, states)
        return [_folded(trial) for trial in trials]

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return the studies."""
        studies = super().get_all_studies()
        for study in studies:
            study.user_attrs = {
                key: value
                for key, value in study.user_attrs.items()
                if key == TITLE or not key.startswith(OURS)
            }
        return studies

    def _count_pictures(self, study_id: int) -> int:
        query = (
            select(func.count())
            .select_from(_Attribute)
            .join(_Trial, _Trial.trial_id == _Attribute.trial_id)
            .where(_Trial.study_id == study_id, _Attribute.key.startswith(PREFIX, autoescape=True))
        )
        with self._backend.engine.connect() as connection:
            return connection.scalar(query) or 0


class PagesArtifacts:
    """An artifact store whose missing files are no traceback: they may be on another host."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open a file; where there is none, the page's answer is 404."""
        try:
            return self._store.open_reader(artifact_id)
        except Exception as error:  # each store has errors of its own
            where = "it may be in the output folder of another host"
            raise bottle.HTTPError(404, f"this file is not here; {where}") from error

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store a file."""
        self._store.write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """Remove a file, if it is here."""
        with contextlib.suppress(ArtifactNotFound):
            self._store.remove(artifact_id)


def _folded(trial: FrozenTrial) -> FrozenTrial:
    shown = copy.copy(trial)  # the cache's stays as it is
    shown._user_attrs = _without_records(trial._user_attrs)
    return shown


def _without_records(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in attributes.items()
        if key not in (TOKEN, ATTEMPT) and not key.startswith(OURS)
    }
