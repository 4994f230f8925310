"""Scores the winner on the test set, once, when the search selected on something else."""

from __future__ import annotations

import csv
import json
import os
import shutil
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna

from hpo.errors import HpoError
from hpo.folders import locked, read_json
from hpo.launchers import Launcher, Slot, WorkerJob
from hpo.models import LAYERS_FILE, MODEL_FILE
from hpo.results import Results
from hpo.space import without_extensions
from hpo.spec import StudySpec
from trainer import rundir
from trainer.bootstrap import bootstrap_interval, rows_of_csv
from trainer.errors import DataError
from trainer.keypath import set_path

TEST_FILE = "test.json"
POLL_INTERVAL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class TestScore:
    """The best model on images that nothing was selected on.

    `interval` is the 95 % bootstrap interval of `dice_dataset` over images; both it and
    `dice_per_image` are absent for an engine that writes the contract's files only.
    """

    __test__ = False  # not a test class, whatever pytest thinks of the name

    trial: int
    dice_dataset: float
    dice_per_image: float | None
    interval: tuple[float, float] | None
    num_images: int


def score_winner(
    spec: StudySpec,
    results: Results,
    study: optuna.Study,
    launcher: Launcher,
    slot: Slot,
    stopping: threading.Event,
) -> TestScore | None:
    """Evaluate `best_model/` on the test set; None where there is no test set or no model.

    A model that has its score already is not evaluated again, and of several drivers one does it.

    Raises:
        HpoError: the worker failed; its log's tail is in the message.
    """
    if spec.data.test is None or spec.select_on == "test":
        return None
    with locked(spec.folders.study / "test"):
        best, trial = spec.folders.best_model, results.owner(study)
        if trial is None:
            return None
        stored = read_json(best / TEST_FILE)
        if stored:
            interval = tuple(stored["interval"]) if stored["interval"] else None
            return TestScore(**{**stored, "interval": interval})
        result = _evaluate(spec, launcher, slot, trial, stopping)
        with locked(best):
            if result is not None and results.owner(study) == trial:
                text = json.dumps(asdict(result), indent=2) + "\n"
                rundir.write_atomic(best / TEST_FILE, text)
        return result


def _evaluate(
    spec: StudySpec, launcher: Launcher, slot: Slot, trial: int, stopping: threading.Event
) -> TestScore | None:
    run_dir = _prepare(spec, launcher, trial)
    handle = launcher.start(WorkerJob(run_dir=run_dir, slot=slot))
    try:
        while (code := handle.poll()) is None:
            if stopping.wait(POLL_INTERVAL_S):
                return None
    finally:
        handle.stop()
    evaluations = rundir.TestLogReader(run_dir / rundir.TEST_LOG).read_new()
    if code != 0 or not evaluations:
        raise HpoError(
            f"the best model could not be scored on the test set (exit code {code}):\n"
            f"{handle.log_tail()}"
        )
    return _collect(spec, run_dir, trial, evaluations[-1].accuracy)


def _prepare(spec: StudySpec, launcher: Launcher, trial: int) -> Path:
    best = spec.folders.best_model
    run_dir = spec.folders.study / f"test_of_trial_{trial:05d}"
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(parents=True)
    for name in (MODEL_FILE, LAYERS_FILE):
        try:
            os.link(best / name, run_dir / name)
        except OSError:
            shutil.copyfile(best / name, run_dir / name)
    config: dict[str, Any] = json.loads((best / rundir.CONFIG).read_text(encoding="utf-8"))
    network = config["neural_network"]
    mount = next(mount for mount in spec.mounts if mount.name == "data")
    assert spec.data.test is not None
    inputs, targets = spec.data.test.inputs, spec.data.test.targets
    set_path(network, "data.test_input_path", launcher.worker_path(mount, inputs))
    set_path(network, "data.test_target_path", launcher.worker_path(mount, targets))
    known = launcher.capabilities()
    written = {"neural_network": without_extensions(network, known=known)}
    rundir.write_atomic(run_dir / rundir.CONFIG, json.dumps(written, indent=2))
    return run_dir


def _collect(spec: StudySpec, run_dir: Path, trial: int, accuracy: float) -> TestScore:
    entries = rundir.read_metrics(run_dir)
    last = entries[-1] if entries else {}
    interval = None
    classes = last.get("classes_averaged")
    if isinstance(classes, list):
        try:
            table = rundir.read_untrusted(run_dir / rundir.PER_IMAGE).decode()
            interval = bootstrap_interval(rows_of_csv(table), [str(name) for name in classes])
        except (ValueError, csv.Error, DataError):
            interval = None
    per_image = last.get("dice_per_image")
    return TestScore(
        trial=trial,
        dice_dataset=accuracy,
        dice_per_image=per_image if isinstance(per_image, float) else None,
        interval=interval,
        num_images=spec.survey.num_test,
    )
