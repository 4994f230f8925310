"""Scores the winner on the test set, once, when the search selected on something else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from hpo.dataset.datafolder import Part
from hpo.dataset.intervals import Grouping, Interval, interval_of_runs
from hpo.errors import HpoError
from hpo.folders import LockHeldError, locked
from hpo.keys import ATTEMPT, TESTED
from hpo.launchers import Launcher, Mount, Slot
from hpo.objective import Objective
from hpo.plan.spec import StudySpec
from hpo.results.best_model import Results
from hpo.results.metrics import (
    OWN_DATASET,
    OWN_PER_IMAGE,
    WITH,
    WITHOUT,
    describe_averages,
    describe_classes,
    numbers,
    read_classes,
    read_figures,
    read_score,
)
from hpo.results.model_folder import TEST_FILE, copy_model
from hpo.run.oneshot import run_config
from hpo.store.study import best_trial
from hpo.store.task_lease import TaskLease
from hpo.wording import ABSENT, format_score
from hpo.worker_files import remove
from trainer import rundir
from trainer.keypath import get_path, set_path

WAIT_INTERVAL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class TestScore:
    """The best model on images that nothing was selected on.

    `interval` is the 95 % bootstrap interval of `dice_dataset` over groups of images (patients),
    or images where no groups are known: `num_drawn` of `drawn`. It is absent where they are fewer
    than five, and with `dice_per_image` for an engine that writes the contract's files only.
    """

    __test__ = False  # not a test class, whatever pytest thinks of the name

    trial: int
    dice_dataset: float
    dice_per_image: float | None
    interval: tuple[float, float] | None
    num_images: int
    num_drawn: int | None = None
    drawn: str | None = None
    dice_with_background: float | None = None
    dice_without_background: float | None = None
    dice_dataset_own_size: float | None = None
    dice_per_image_own_size: float | None = None
    attempt: int | None = None
    dice_per_class: dict[str, float | None] | None = None
    objective: str | None = None  # what chose the trial, where it was not `dice_dataset`
    score: float | None = None  # by it; None where the worker has written none

    @classmethod
    def recorded(cls, study: optuna.Study, trial: int) -> TestScore | None:
        """Return the score of a trial's model that some node has recorded in the study."""
        stored = study.user_attrs.get(TESTED.format(trial))
        if not stored:
            return None
        return cls(**{**stored, "interval": tuple(stored["interval"] or ()) or None})

    def write(self, model: Path) -> None:
        """Put the score beside the model that it is of."""
        rundir.write_atomic(model / TEST_FILE, json.dumps(asdict(self), indent=2) + "\n")

    def __str__(self) -> str:
        text = ""
        if self.objective is not None:
            own = ABSENT if self.score is None else format_score(self.score, self.objective)
            text = f"{self.objective} {own}, "
        text += f"dice_dataset {self.dice_dataset:.4f}"
        if self.interval is not None or self.num_drawn is not None:
            found = Interval(self.interval, self.num_drawn or 0, self.drawn or "images")
            text += f" ({'95 % interval ' if self.interval else ''}{found})"
        if self.dice_per_image is not None and self.objective != "dice_per_image":
            text += f", dice_per_image {self.dice_per_image:.4f}"
        if (averages := describe_averages(numbers(asdict(self)))) is not None:
            text += f" (averaged: {averages})"
        if self.dice_dataset_own_size is not None:
            own = f"dice_dataset {self.dice_dataset_own_size:.4f}"
            shown = "the same dice_dataset" if own in text else own
            text += f", {shown} at the images' own size"
        if (classes := describe_classes(self.dice_per_class)) is not None:
            text += f" (each class: {classes})"
        return f"{text} on the {self.num_images} test images"


@dataclass(frozen=True, kw_only=True)
class FinalTest:
    """What is needed to score the winner on the test set.

    Attributes:
        task_lease: held by the one driver of the study that does it.
        warn: takes a line for the user.
    """

    spec: StudySpec
    results: Results
    study: optuna.Study
    launcher: Launcher
    slot: Slot
    task_lease: TaskLease
    warn: Callable[[str], None]
    stopping: threading.Event

    def run(self) -> TestScore | None:
        """Score the winner's model, unless that is done; None where nothing can be scored here.

        There is no test set, or `best_model/` is not the winner's: no other model may see the test
        images. Of several drivers one does it, and the others wait for what it records.

        Raises:
            HpoError: the worker failed; its log's tail is in the message.
        """
        if self.spec.data.test is None or self.spec.select_on == "test":
            return None
        has_waited = False
        while (best := best_trial(self.study)) is not None:
            if score := self._known(best):
                return score
            stored = self.results.stored_trial(self.study)
            if stored is None or stored.number != best.number:
                return None
            if (owner := self.task_lease.take()) is None:
                with self.task_lease.kept():
                    # another may have ended just before
                    return self._known(best) or self._record(best)
            if not has_waited:
                self.warn(f"waits for the final test, which {owner.split('/')[0]} makes")
                has_waited = True
            if self.stopping.wait(WAIT_INTERVAL_S):
                break
        return None

    def _known(self, best: FrozenTrial) -> TestScore | None:
        """Return the score that some node has recorded, and put it beside the model, if here."""
        score = TestScore.recorded(self.study, best.number)
        if score is not None:
            self._put(score, best)
        return score

    def _record(self, best: FrozenTrial) -> TestScore | None:
        score = _evaluate(self, best)
        if score is not None:
            self.study.set_user_attr(TESTED.format(best.number), asdict(score))
            self._put(score, best)
        return score

    def _put(self, score: TestScore, best: FrozenTrial) -> None:
        folder = self.spec.folders.best_model
        try:
            with locked(folder):
                stored = self.results.stored_trial(self.study)
                if stored is not None and stored.number == best.number:
                    score.write(folder)
        except LockHeldError as error:  # the study has it
            self.warn(f"{folder / TEST_FILE} is not written: {error.filename}: {error.strerror}")


def tested_before(study: optuna.Study, number: int) -> list[int]:
    """Return the other trials whose models have been scored on the test set."""
    prefix = TESTED.format("")
    numbers = (key.removeprefix(prefix) for key in study.user_attrs if key.startswith(prefix))
    return sorted({int(each) for each in numbers} - {number})


def _evaluate(test: FinalTest, winner: FrozenTrial) -> TestScore | None:
    spec, launcher = test.spec, test.launcher
    trial = winner.number
    run_dir = spec.folders.test(trial)
    if left := remove(run_dir, stopping=test.stopping):
        raise HpoError(f"the test images cannot be evaluated: {left}")
    network = copy_model(spec.folders.best_model, run_dir, test.stopping)
    mount = next(mount for mount in spec.mounts if mount.name == "data")
    assert spec.data.test is not None
    place_test(network, launcher, mount, spec.data.test)
    ended = run_config(launcher, test.slot, run_dir, network, test.stopping, sees_tests=True)
    if ended is None:
        return None
    if ended.exit_code != 0 or not ended.evaluations:
        raise HpoError(
            f"the best model could not be scored on the test set (exit code {ended.exit_code}):\n"
            f"{ended.log_tail}"
        )
    score = read_test_score(
        run_dir,
        trial,
        ended.evaluations[-1].accuracy,
        num_images=spec.survey.num_test,
        grouping=spec.grouping,
    )
    score = replace(score, attempt=winner.user_attrs.get(ATTEMPT))
    return with_objective(score, run_dir, spec.objective)


def with_objective(score: TestScore, run_dir: Path, objective: Objective) -> TestScore:
    """Add the figure that trials are compared by, where the score does not have it."""
    if objective.is_default:
        return score
    return replace(score, objective=objective.key, score=read_score(run_dir, objective))


def place_test(network: dict[str, Any], launcher: Launcher, data: Mount, test: Part) -> None:
    """Set the paths of the test images, as a worker sees them, in a config."""
    set_path(network, "data.test_input_path", launcher.worker_path(data, test.inputs))
    set_path(network, "data.test_target_path", launcher.worker_path(data, test.targets))
    if get_path(network, "metrics.at_size") in (None, "network"):
        set_path(network, "metrics.at_size", "both")


def read_test_score(
    run_dir: Path, trial: int, score: float, *, num_images: int, grouping: Grouping
) -> TestScore:
    """Return what an evaluation has left in its folder, which is the worker's."""
    found = interval_of_runs([run_dir], grouping, num_images=num_images)
    figures = read_figures(run_dir, num_epochs=0)
    return TestScore(
        trial=trial,
        dice_dataset=score,
        dice_per_image=figures.get("dice_per_image"),
        dice_per_class=read_classes(run_dir, num_epochs=0) or None,
        dice_with_background=figures.get(WITH),
        dice_without_background=figures.get(WITHOUT),
        dice_dataset_own_size=figures.get(OWN_DATASET),
        dice_per_image_own_size=figures.get(OWN_PER_IMAGE),
        interval=found.bounds if found else None,
        num_images=num_images,
        num_drawn=found.num_groups if found else None,
        drawn=found.unit if found else None,
    )
