"""`rml-study confirm`: the best configurations, trained anew with several seeds: a paper's table.

A trial's own score flatters it: it is the best of many, on the images that chose it. Here each
configuration is trained again from other seeds, as the trial was but to its end, and the epoch is
chosen on the validation part; the test images are looked at once for each training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.dataset.intervals import Grouping
from hpo.errors import HpoError, UsageError
from hpo.launchers import DEFAULT_IMAGE, Mount, Slot
from hpo.records import run_of
from hpo.study.common import (
    OutputDir,
    Storage,
    StorageFile,
    StudyName,
    database_url,
    opened_study,
    say,
)
from hpo.study.recorded import check_images, reads_split, recorded_config, recorded_mounts
from hpo.study.retrain import Run, TrainingData, retrain
from hpo.study.workers import (
    DockerImage,
    Gpu,
    LauncherKind,
    PlainWorker,
    SingularityImage,
    Worker,
    WorkerChoice,
    open_workers,
)
from trainer.errors import TrainerError

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from hpo.dataset.datafolder import DataFolder
    from hpo.dataset.survey import DataSurvey


def confirm(  # noqa: PLR0913  # a command's options
    top: Annotated[int, typer.Option("--top", min=1, help="How many configurations")] = 3,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each")] = 5,
    study_name: StudyName = None,
    storage: Storage = None,
    storage_file: StorageFile = None,
    output_dir: OutputDir = Path(),
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Data folder with the test images (default: ./data, or what "
                     "the study has generated)"),
    ] = None,
    launcher: LauncherKind = "auto",
    worker: Worker = None,
    plain_worker: PlainWorker = False,
    docker_image: DockerImage = DEFAULT_IMAGE,
    singularity_image: SingularityImage = None,
    gpu: Gpu = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Trainings at a time (default: as rml-optimize)"),
    ] = None,
) -> None:  # fmt: skip
    """Train the best configurations again with several seeds, and score them on the test images.

    Prints mean and standard deviation over the seeds, and writes confirm.md and confirm.tex. What
    is finished is not repeated: the same command goes on after an interruption.
    """
    with opened_study(database_url(storage, storage_file, output_dir), study_name) as study:
        trials, name, attributes = _best_trials(study, top), study.study_name, study.user_attrs
    folder = output_dir.absolute() / "runs" / name
    tested, survey = _find_test(trials[0], data, folder)
    runs = [
        Run(trial, seed, folder / "confirm" / f"trial_{trial.number:05d}" / f"seed_{seed}")
        for trial in trials
        for seed in range(1, seeds + 1)
    ]
    todo = [run for run in runs if run.result() is None]
    done = len(runs) - len(todo)
    if done:
        say(f"{done} of {len(runs)} trainings are finished already")
    choice = WorkerChoice(
        launcher=launcher, worker=worker, plain=plain_worker,
        docker_image=docker_image,
        singularity_image=singularity_image, gpu=gpu, jobs=jobs,
    )  # fmt: skip
    failed: list[str] = []
    if todo:
        images, inputs = recorded_mounts(todo[0].provenance, folder, None, name="split")
        check_images(todo[0].provenance, images.path, folder)
        tests = Mount(name="data", path=tested.root)
        mounts = (images, inputs, tests)
        with open_workers(
            choice,
            mounts,
            study=name,
            attributes=attributes,
            cache=folder / "cache",
            pools=folder,
            warn=say,
        ) as workers:
            say(f"{len(todo)} trainings: {workers.text}")
            place = TrainingData(workers.launcher, (images, inputs), tests, tested, survey)
            failed = list(_run_all(todo, place, workers.slots, done=done, total=len(runs)))
    from hpo.study.paper import write_tables

    grouping = Grouping(tested.root, runs[0].provenance["data"].get("group_by"))
    finished = [run for run in runs if run.result()]
    table = write_tables(output_dir, name, trials, finished, grouping)
    say()
    say(table)
    say(f"wrote {output_dir / 'confirm.md'} and {output_dir / 'confirm.tex'}")
    if failed:
        raise HpoError("\n".join([*failed, "the same command tries these again"]))


def _best_trials(study: optuna.Study, top: int) -> list[FrozenTrial]:
    """Return the best trials of different values, the best first.

    Raises:
        UsageError: there are none, or they were chosen on the test images.
    """
    from hpo.store.study import finished_trials, score, trial_rank

    chosen: dict[str, FrozenTrial] = {}
    for trial in sorted(finished_trials(study), key=trial_rank, reverse=True):
        if score(trial) is not None and run_of(trial.user_attrs):
            chosen.setdefault(json.dumps(trial.params, sort_keys=True), trial)
    trials = list(chosen.values())[:top]
    if not trials:
        raise UsageError(f"study {study.study_name!r} has no finished trial yet")
    if not all(reads_split(run_of(trial.user_attrs)) for trial in trials):
        raise UsageError(
            f"study {study.study_name!r} selected on its test images, so no image is left that "
            "did not choose its trials; search again with --select-on validation"
        )
    return trials


def _find_test(
    trial: FrozenTrial, data: Path | None, folder: Path
) -> tuple[DataFolder, DataSurvey]:
    """Return the data folder with the test images, checked to be that of the study."""
    from hpo.cli import counting
    from hpo.dataset.datafolder import find_data
    from hpo.dataset.survey import refuse_other_images, survey_data

    provenance = run_of(trial.user_attrs)
    generated = folder / "data"
    root = data or (generated if generated.is_dir() else Path("data"))
    if not root.is_dir():
        raise UsageError(f"--data: no such folder: {root}; name the one with the test images")
    found = find_data(root.absolute(), needs_test=False)
    if found.test is None:
        raise UsageError(f"--data {root}: has no test images, which is what this command needs")
    settings = recorded_config(provenance)["data"]
    values = settings.get("mask_values")
    with counting("reading images") as progress:
        survey = survey_data(
            found,
            cache=folder / "survey.json",
            mask_values=tuple(values) if values else None,
            mask_threshold=settings.get("mask_threshold"),
            progress=progress,
        )
    refuse_other_images(root, provenance["data"]["hash"], survey.fingerprint)
    return found, survey


def _run_all(
    todo: Sequence[Run], place: TrainingData, slots: Sequence[Slot], *, done: int, total: int
) -> Iterator[str]:
    """Run all trainings, as many at a time as there are slots; yield what went wrong."""
    free: SimpleQueue[Slot] = SimpleQueue()
    for slot in slots:
        free.put(slot)
    stopping = Event()

    def train(run: Run) -> dict[str, Any] | None:
        slot = free.get()
        try:
            return None if stopping.is_set() else retrain(run, place, slot, stopping)
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
                except (HpoError, TrainerError) as error:
                    say(f"{name}: {str(error).splitlines()[0]}")
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
