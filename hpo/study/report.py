"""`rml-study report`: a study as one page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.command_line import as_options
from hpo.console import counting
from hpo.dataset.survey import data_fingerprint, refuse_other_images
from hpo.errors import HpoError
from hpo.folders import WorkFolders
from hpo.keys import ATTEMPT, STUDY_ID
from hpo.launchers import Mount
from hpo.records import run_of
from hpo.run.cases import CaseMaker
from hpo.study.common import opened_study, say
from hpo.study.options import StudyOptions
from hpo.study.recorded import find_recorded_data, reads_split
from hpo.study.workers import WorkerOptions, open_workers
from trainer.errors import TrainerError

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of `rml-study report`."""

    data: Annotated[
        Path | None,
        typer.Option("--data", help="Data folder with the test images, to show the worst of them "
                     "(default: ./data, or what the study has generated)"),
    ] = None  # fmt: skip
    cases: Annotated[
        bool, typer.Option("--cases/--no-cases", help="Segment images where none are there yet")
    ] = True
    study: StudyOptions
    workers: WorkerOptions


@as_options
def report(options: ReportOptions) -> None:
    """Write report.html into the output folder: what came of the study, on one page.

    Where a search has left no pictures of the winner's worst and typical images, a worker
    segments some now, if best_model/ and the images are here. Nothing is trained.
    """
    from hpo.report.page import write_report

    with opened_study(options.study) as study:
        missing = _make_cases(study, options) if options.cases else None
        if missing:
            say(f"without pictures of cases: {missing}")
        page = write_report(study, options.study.output_dir)
    say(f"wrote {os.path.relpath(page)} ({page.stat().st_size / 1e6:.1f} MB)")


def _make_cases(study: optuna.Study, options: ReportOptions) -> str | None:
    """Have a worker segment the images that are shown; return why there are none, if so."""
    from hpo.report.cases import read_cases
    from hpo.results.models import find_model
    from hpo.store.study import best_trial

    best = best_trial(study)
    if best is None:
        return None
    folders = WorkFolders.of(options.study.output_dir, study.study_name)
    attempt = int(best.user_attrs.get(ATTEMPT, 1))
    if read_cases(folders.cases(best.number), best.number, attempt) is not None:
        return None
    model = find_model(folders, best, study.user_attrs.get(STUDY_ID))
    if model is None:
        return f"the model of trial {best.number} is not in {folders.output}"
    run = run_of(best.user_attrs)
    try:
        root = _data_root(options.data, folders)
        if root is None:
            return "no data folder here; name the one with the test images: --data"
        data = find_recorded_data(root, run, needs_test=not reads_split(run))
        part = data.test
        if part is None:
            return f"{root} has no test images"
        with counting("reading files") as progress:
            found = data_fingerprint(data, folders.contents, progress)
        refuse_other_images(root, run["data"]["hash"], found)
        mount = Mount(name="data", path=data.root)
        with open_workers(
            options.workers,
            (mount,),
            study=study.study_name,
            attributes=study.user_attrs,
            warm=False,
        ) as workers:
            say(f"segmenting: {workers.text}")
            return CaseMaker(
                folders=folders,
                trial=best.number,
                attempt=attempt,
                model=model,
                mount=mount,
                data=data,
                part=part,
                name="test",
                launcher=workers.launcher,
                slot=workers.slots[0],
            ).make()
    except (HpoError, TrainerError) as error:  # the page is worth having without
        return str(error)


def _data_root(given: Path | None, folders: WorkFolders) -> Path | None:
    root = given or (folders.generated if folders.generated.is_dir() else Path("data"))
    return root.absolute() if given or root.is_dir() else None
