"""One training of `rml-study confirm`: a trial's configuration, another seed, then the test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from hpo.dataset.intervals import Grouping
from hpo.errors import HpoError
from hpo.folders import read_json
from hpo.launchers import Launcher, Mount, Slot
from hpo.objective import Objective
from hpo.records import RunRecord, run_of
from hpo.results.metrics import curve_of
from hpo.run.oneshot import run_config
from hpo.study.recorded import placed_config, recorded_config
from hpo.worker_files import copy_file, remove
from trainer import rundir
from trainer.keypath import copy_config, get_path, set_path

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from hpo.dataset.datafolder import DataFolder
    from hpo.dataset.survey import DataSurvey

RESULT = "result.json"
MODEL = "model.pt"


@dataclass(frozen=True)
class Run:
    """One training: a trial's configuration, which seed, and its folder."""

    trial: FrozenTrial
    seed: int
    folder: Path

    @property
    def provenance(self) -> RunRecord:
        """What the trial ran with."""
        return run_of(self.trial.user_attrs)

    @property
    def test_dir(self) -> Path:
        """Where the test images are evaluated."""
        return self.folder / "test"

    def result(self) -> dict[str, Any] | None:
        """Return what came of it, None if it is not finished or was another configuration's."""
        entry = read_json(self.folder / RESULT)
        return entry if entry.get("of") == self.identity() else None

    def identity(self) -> str:
        """Return what makes a finished training this one."""
        return f"{self.provenance['config_hash']} {self.provenance['data']['hash']} {self.seed}"


@dataclass(frozen=True)
class TrainingData:
    """The images that all trainings read and are tested on, and how workers find them."""

    launcher: Launcher
    mounts: tuple[Mount, Mount]
    tests: Mount
    tested: DataFolder
    survey: DataSurvey
    objective: Objective

    def grouping(self, run: Run) -> Grouping:
        """Return which of the test images are of one patient, as the study knew them."""
        return Grouping(self.tested.root, run.provenance["data"].get("group_by"))


def retrain(run: Run, data: TrainingData, slot: Slot, stopping: Event) -> dict[str, Any] | None:
    """Train and test once; return the result, which is then in its file, None if stopped.

    Raises:
        HpoError: the worker failed, or what it left cannot be removed.
        DataError: it left no checkpoint.
    """
    from hpo.plan.objectives import keep_best
    from hpo.plan.samplers import derived_seed
    from hpo.run.final_test import read_test_score, with_objective

    launcher = data.launcher
    config = placed_config(recorded_config(run.provenance), run.provenance, data.mounts, launcher)
    config["seed"] = derived_seed(int(config.get("seed") or 0), run.seed, "confirm")
    set_path(config, "checkpoints.keep", "best")
    for key in ("best_by", "best_direction"):
        config["checkpoints"].pop(key, None)
    keep_best(config, data.objective, launcher)
    if get_path(config, "checkpoints.resume_when_done") is not None:
        # Stopped after the training, before the test's end: the next call goes on from there.
        set_path(config, "checkpoints.resume_when_done", True)
    train_dir = run.folder / "train"
    can_resume = "checkpoints.resume" in launcher.capabilities()
    _prepare_folder(train_dir, config, stopping, can_resume=can_resume)
    trained = run_config(launcher, slot, train_dir, config, stopping)
    if trained is None:
        return None
    if trained.exit_code != 0 or not trained.evaluations:
        raise HpoError(f"training ended with exit code {trained.exit_code}:\n{trained.log_tail}")
    curve = curve_of(train_dir, config, trained.evaluations, data.objective)
    best_epoch = data.objective.direction.best_epoch(curve)
    if best_epoch is None:
        raise HpoError(f"the training's metrics have no {data.objective}")
    _empty(run.test_dir, stopping)
    run.test_dir.mkdir(parents=True)
    checkpoints = train_dir / rundir.CHECKPOINTS
    best_file = checkpoints / rundir.checkpoint_file(best_epoch)
    copy_file(best_file, run.test_dir / MODEL, stopping=stopping)
    network = _test_config(config, data)
    tested = run_config(launcher, slot, run.test_dir, network, stopping, sees_tests=True)
    if tested is None:
        return None
    if tested.exit_code != 0 or not tested.evaluations:
        raise HpoError(f"the test ended with exit code {tested.exit_code}:\n{tested.log_tail}")
    score = read_test_score(
        run.test_dir,
        run.trial.number,
        tested.evaluations[-1].accuracy,
        num_images=data.survey.num_test,
        grouping=data.grouping(run),
    )
    result = {
        "of": run.identity(),
        **asdict(with_objective(score, run.test_dir, data.objective)),
        "seed": run.seed,
        "training_seed": config["seed"],
        "epoch": best_epoch,
        "validation": curve[best_epoch],
    }
    rundir.write_atomic(run.folder / RESULT, json.dumps(result, indent=2) + "\n")
    # As with trials: 130 MB each would fill the disk.
    for path in (checkpoints, run.test_dir / MODEL):  # which their worker may have removed
        remove(path, stopping=stopping)
    return result


def _empty(folder: Path, stopping: Event) -> None:
    if left := remove(folder, stopping=stopping):
        raise HpoError(left)


def _prepare_folder(
    folder: Path, config: Mapping[str, Any], stopping: Event, *, can_resume: bool
) -> None:
    """Make the training's folder; the state of an interrupted one stays if it can be resumed."""
    note = folder.with_name("train.json")
    text = json.dumps(config, sort_keys=True)
    if not (can_resume and note.exists() and note.read_text(encoding="utf-8") == text):
        _empty(folder, stopping)
    folder.mkdir(parents=True, exist_ok=True)
    rundir.write_atomic(note, text)


def _test_config(config: Mapping[str, Any], data: TrainingData) -> dict[str, Any]:
    """Return the config that evaluates the chosen checkpoint on the test images."""
    from hpo.run.final_test import place_test

    network = copy_config(config)
    for key in ("input_path", "target_path"):
        network["data"].pop(key, None)
    network["checkpoints"] = {"load": f"./{MODEL}"}
    network.pop("num_epochs", None)
    # The test images alone may lack a value that the training images have.
    if data.survey.coding.kind in ("binary", "classes"):
        set_path(network, "data.mask_values", list(data.survey.coding.values))
    assert data.tested.test is not None
    place_test(network, data.launcher, data.tests, data.tested.test)
    return network
