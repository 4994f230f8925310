"""`rml-study confirm`: the best configurations, trained anew with several seeds: a paper's table.

A trial's own score flatters it: it is the best of many, on the images that chose it. Here each
configuration is trained again from other seeds, as the trial was but to its end, and the epoch is
chosen on the validation part; the test images are looked at once for each training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.command_line import as_options
from hpo.console import counting
from hpo.dataset.intervals import Grouping
from hpo.errors import HpoError, UsageError
from hpo.folders import WorkFolders
from hpo.launchers import Slot
from hpo.objective import objective_of
from hpo.records import run_of
from hpo.study.common import opened_study, say
from hpo.study.options import StudyOptions
from hpo.study.recorded import (
    check_images,
    find_recorded_data,
    reads_split,
    recorded_config,
    recorded_mounts,
)
from hpo.study.retrain import Run, TrainingData, retrain
from hpo.study.workers import WorkerOrPlainOptions, open_workers
from trainer.errors import TrainerError, first_line
from trainer.wording import counted

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from hpo.dataset.datafolder import DataFolder
    from hpo.dataset.survey import DataSurvey


@dataclass(frozen=True, kw_only=True)
class ConfirmOptions:
    """Options of `rml-study confirm`."""

    top: Annotated[int, typer.Option("--top", min=1, help="How many configurations")] = 3
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each")] = 5
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Data folder with the test images (default: ./data, or what "
                     "the study has generated)"),
    ] = None  # fmt: skip
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Trainings at a time (default: as rml-optimize)"),
    ] = None
    study: StudyOptions
    workers: WorkerOrPlainOptions


@as_options
def confirm(options: ConfirmOptions) -> None:
    """Train the best configurations again with several seeds, and score them on the test images.

    Prints mean and standard deviation over the seeds, and writes confirm.md and confirm.tex. What
    is finished is not repeated: the same command goes on after an interruption.
    """
    with opened_study(options.study) as opened:
        study = Chosen(_best_trials(opened, options.top), opened.study_name, opened.user_attrs)
    output = options.study.output_dir
    folders = WorkFolders.of(output, study.name)
    tested, survey = _find_test(study.trials[0], options.data, folders)
    runs = [
        Run(trial, seed, folders.confirmation(trial.number, seed))
        for trial in study.trials
        for seed in range(1, options.seeds + 1)
    ]
    failed = _train(study, runs, options, folders, tested, survey)
    from hpo.study.paper import write_tables

    grouping = Grouping(tested.root, runs[0].provenance["data"].get("group_by"))
    finished = [run for run in runs if run.result()]
    objective = objective_of(study.attributes)
    table = write_tables(output, study.name, study.trials, finished, grouping, objective)
    say()
    say(table)
    say(f"wrote {output / 'confirm.md'} and {output / 'confirm.tex'}")
    if failed:
        raise HpoError("\n".join([*failed, "the same command tries these again"]))


@dataclass(frozen=True)
class Chosen:
    """What is read of a study: its best trials, its name and its user attributes."""

    trials: list[FrozenTrial]
    name: str
    attributes: Mapping[str, Any]


def _train(
    study: Chosen,
    runs: Sequence[Run],
    options: ConfirmOptions,
    folders: WorkFolders,
    tested: DataFolder,
    survey: DataSurvey,
) -> list[str]:
    """Carry out the trainings that are not finished; return what went wrong."""
    todo = [run for run in runs if run.result() is None]
    done = len(runs) - len(todo)
    if done:
        say(f"{done} of {len(runs)} trainings are finished already")
    if not todo:
        return []
    images, inputs = recorded_mounts(todo[0].provenance, folders, None, name="split")
    check_images(todo[0].provenance, images.path, folders)
    tests = tested.mount(tests_only=True)
    with open_workers(
        options.workers,
        (images, inputs, tests),
        study=study.name,
        attributes=study.attributes,
        jobs=options.jobs,
        cache=folders.cache,
        pools=folders.study,
        warn=say,
    ) as workers:
        say(f"{counted(len(todo), 'training')}: {workers.text}")
        training_data = TrainingData(
            workers.launcher,
            (images, inputs),
            tests,
            tested,
            survey,
            objective_of(study.attributes),
        )
        return list(_run_all(todo, training_data, workers.slots, done=done, total=len(runs)))


def _best_trials(study: optuna.Study, top: int) -> list[FrozenTrial]:
    """Return the best trials of different values, the best first.

    Raises:
        UsageError: there are none, or they were chosen on the test images.
    """
    from hpo.store.directions import direction_of
    from hpo.store.study import best_first, finished_trials

    chosen: dict[str, FrozenTrial] = {}
    for trial in best_first(finished_trials(study), direction_of(study)):
        if run_of(trial.user_attrs):
            chosen.setdefault(json.dumps(trial.params, sort_keys=True), trial)
    trials = list(chosen.values())[:top]
    if not trials:
        raise UsageError(f"study {study.study_name!r} has no finished trial of rml-optimize yet")
    if not all(reads_split(run_of(trial.user_attrs)) for trial in trials):
        raise UsageError(
            f"study {study.study_name!r} selected on its test images, so no image is left that "
            "did not choose its trials. Score best_model on images that the study has never seen "
            "(rmldnn --config=best_model/config.json --set data.test_input_path=… "
            "--set data.test_target_path=…), or search again with --select-on validation"
        )
    return trials


def _find_test(
    trial: FrozenTrial, data: Path | None, folders: WorkFolders
) -> tuple[DataFolder, DataSurvey]:
    """Return the data folder with the test images, checked to be that of the study."""
    from hpo.dataset.survey import refuse_other_images, survey_data

    provenance = run_of(trial.user_attrs)
    generated = folders.generated
    root = data or (generated if generated.is_dir() else Path("data"))
    if not root.is_dir():
        raise UsageError(f"--data: no such folder: {root}; name the one with the test images")
    found = find_recorded_data(root.absolute(), provenance, needs_test=False)
    if found.test is None:
        raise UsageError(f"--data {root}: has no test images, which is what this command needs")
    settings = recorded_config(provenance)["data"]
    values = settings.get("mask_values")
    with counting("reading images") as progress:
        survey = survey_data(
            found,
            cache=folders.survey,
            mask_values=tuple(values) if values else None,
            mask_threshold=settings.get("mask_threshold"),
            progress=progress,
        )
    refuse_other_images(root, provenance["data"]["hash"], survey.fingerprint)
    return found, survey


def _run_all(
    todo: Sequence[Run], data: TrainingData, slots: Sequence[Slot], *, done: int, total: int
) -> Iterator[str]:
    """Run all trainings, as many at a time as there are slots; yield what went wrong."""
    free: SimpleQueue[Slot] = SimpleQueue()
    for slot in slots:
        free.put(slot)
    stopping = Event()

    def train(run: Run) -> dict[str, Any] | None:
        slot = free.get()
        try:
            return None if stopping.is_set() else retrain(run, data, slot, stopping)
        finally:
            free.put(slot)

    with ThreadPoolExecutor(len(slots), thread_name_prefix="confirm") as pool:
        try:
            futures = {pool.submit(train, run): run for run in todo}
            for future in as_completed(futures):
                run = futures[future]
                name = f"trial {run.trial.number}, seed {run.seed}"
                try:
                    result = future.result()
                except (HpoError, TrainerError, OSError) as error:
                    # of what a worker has made of its folder, say: the others are trained
                    say(f"{name}: {first_line(error)}")
                    yield f"{name}: {error}"
                    continue
                if result is not None:
                    done += 1
                    say(
                        f"{name}: dice_dataset {result['dice_dataset']:.4f} on the test images "
                        f"(epoch {result['epoch']}); {done} of {total}"
                    )
        finally:  # interrupted: what runs is ended, what waits is not started
            stopping.set()
