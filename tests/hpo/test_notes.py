"""Notes and pictures for Optuna's dashboard that several drivers write at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna_dashboard import get_note
from sqlalchemy import Engine

from hpo.results.artifacts import ModelStore
from hpo.results.pictures import attach, store_pictures
from hpo.store.database import locking_engine
from hpo.store.notes import lock_notes, write_note

NUM_DRIVERS, NUM_NOTES = 3, 15


@pytest.fixture
def engine(study: optuna.Study) -> Engine:
    return locking_engine(study._storage._backend)  # type: ignore[attr-defined]


@pytest.mark.parametrize("of_trial", [False, True])
def test_drivers_that_write_a_note_at_once_all_succeed(
    study: optuna.Study, engine: Engine, *, of_trial: bool
) -> None:
    trial = study.ask()
    trial_id = trial._trial_id if of_trial else None

    def write(driver: int) -> None:
        for index in range(NUM_NOTES):
            with engine.begin() as connection:
                assert lock_notes(connection, study._study_id)
                text = f"note {driver} {index} " + "é" * 3000  # of several parts
                assert write_note(connection, study._study_id, trial_id, text)

    with ThreadPoolExecutor(NUM_DRIVERS) as pool:
        list(pool.map(write, range(NUM_DRIVERS)))
    note = get_note(trial if of_trial else study)
    assert note.startswith("note ")
    assert note.count("note ") == 1  # no part of another
    version = "dashboard:note_ver" if trial_id is None else f"dashboard:{trial_id}:note_ver"
    attributes = study._storage.get_study_system_attrs(study._study_id)
    assert attributes[version] == NUM_DRIVERS * NUM_NOTES


def test_picture_that_two_drivers_have_stored_is_attached_once(
    study: optuna.Study, engine: Engine, tmp_path: Path
) -> None:
    trial = study.ask()
    (tmp_path / "artifacts").mkdir()
    store = ModelStore(FileSystemArtifactStore(tmp_path / "artifacts"), "here")
    each = [store_pictures(store, trial._trial_id, {"a.png": b"png"}) for _ in range(2)]
    assert [json.loads(*files.values())["filename"] for files in each] == ["a.png"] * 2
    for files in each:
        with engine.begin() as connection:
            assert lock_notes(connection, study._study_id)
            attach(connection, trial._trial_id, files)
    study.tell(trial, 0.5)
    (found,) = study.get_trials()
    assert len(get_all_artifact_meta(found, storage=study._storage)) == 1


def test_study_that_was_deleted_gets_no_note(study: optuna.Study, engine: Engine) -> None:
    study._storage.delete_study(study._study_id)
    with engine.begin() as connection:
        assert not lock_notes(connection, study._study_id)
