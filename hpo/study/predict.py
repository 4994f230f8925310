"""`rml-study predict`: segments images with the study's best model."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from hpo.command_line import as_options
from hpo.errors import HpoError, UsageError
from hpo.folders import WorkFolders
from hpo.keys import STUDY_ID
from hpo.launchers import Mount, WorkerJob
from hpo.run.oneshot import TARGETS_OPTION, run_worker
from hpo.study.common import opened_study, say
from hpo.study.options import Artifacts, StudyOptions
from hpo.study.workers import WorkerOptions, open_workers
from hpo.worker_files import remove

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Options of `rml-study predict`."""

    images: Annotated[
        Path, typer.Option("--images", help="Folder of images, of any size; or one image")
    ]
    out: Annotated[Path, typer.Option("--out", help="New folder for masks and overlays")]
    artifacts: Artifacts = None
    study: StudyOptions
    workers: WorkerOptions


@as_options
def predict(options: PredictOptions) -> None:
    """Segment a folder of images with the study's best model.

    Writes masks/, overlays/ and output_1.h5 (probabilities), as `rmldnn --predict` does.
    """
    segment(options, None)
    masks = sum(1 for _ in (options.out / "masks").glob("*.png"))
    say(f"{masks} masks and overlays in {options.out}")


class Segmenting(Protocol):
    """The options of a command that segments images."""

    @property
    def images(self) -> Path: ...
    @property
    def out(self) -> Path: ...
    @property
    def artifacts(self) -> str | None: ...
    @property
    def study(self) -> StudyOptions: ...
    @property
    def workers(self) -> WorkerOptions: ...


def segment(options: Segmenting, targets: Path | None) -> None:
    """Have a worker segment images into a new folder, and compare with masks if there are any.

    Raises:
        UsageError: no such folder, one that is not empty, or a worker that cannot do it.
        HpoError: no model here, or the worker failed.
    """
    images, out, output = options.images, options.out, options.study.output_dir
    folders = {"--images": images, **({TARGETS_OPTION: targets} if targets else {})}
    if targets is None and images.is_file():
        del folders["--images"]
    for key, folder in folders.items():
        if not folder.is_dir():
            raise UsageError(f"{key}: no such folder: {folder}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out: {out} is there and not empty; name a new folder")
    # Beside the results, because a container may not be able to read /tmp of this host.
    with (
        opened_study(options.study) as study,
        tempfile.TemporaryDirectory(prefix=".predict.", dir=output) as aside,
    ):
        model = _find_model(study, output.absolute(), Path(aside).absolute(), options.artifacts)
        if images.is_file():  # a folder is what a container is given
            folders["--images"] = _alone(images, Path(aside).absolute())
        mounts = [
            Mount(name="model", path=model),
            *(Mount(name=key.strip("-"), path=path.absolute()) for key, path in folders.items()),
        ]
        with open_workers(
            options.workers,
            mounts,
            study=study.study_name,
            attributes=study.user_attrs,
            warm=False,
        ) as workers:
            known = workers.launcher.capabilities()
            if not known or (targets is not None and TARGETS_OPTION not in known):
                wanted = "--predict" if targets is None else "--predict with --targets"
                raise UsageError(
                    f"{workers.launcher.describe()}: this worker has no {wanted}; take our own "
                    "(leave out --worker and --docker-image)"
                )
            say(f"segmenting: {workers.text}")
            made = not out.exists()
            out.mkdir(parents=True, exist_ok=True)
            paths = [workers.launcher.worker_path(mount) for mount in mounts]
            args = ["--predict", paths[0], "--out", "."]
            for key, path in zip(folders, paths[1:], strict=True):
                args += [key, path]
            job = WorkerJob(run_dir=out.absolute(), slot=workers.slots[0], args=tuple(args))
            ended = run_worker(workers.launcher, job)
        assert ended is not None
        if ended.exit_code != 0:
            if made:  # else the next call would find it in its way
                remove(out)
            raise HpoError(f"exit code {ended.exit_code} of the worker:\n{ended.log_tail}")


def _alone(image: Path, aside: Path) -> Path:
    """Return a folder with one image in it, that a container's user may read."""
    aside.chmod(0o755)
    folder = aside / "images"
    folder.mkdir(mode=0o755)
    shutil.copyfile(image, folder / image.name)
    return folder


def _find_model(study: optuna.Study, output: Path, aside: Path, artifacts: str | None) -> Path:
    """Return the folder of the best model: the one here, or a copy of where it is."""
    from hpo.results.artifacts import open_model_store
    from hpo.results.models import fetch_best, find_model
    from hpo.store.study import best_trial

    best, folders = best_trial(study), WorkFolders.of(output, study.study_name)
    if best is None:
        raise UsageError(f"study {study.study_name!r} has no finished trial of rml-optimize yet")
    here = find_model(folders, best, study.user_attrs.get(STUDY_ID))
    if here is None:
        aside.chmod(0o755)  # a container's user is not us
        here = aside / folders.best_model.name
        model_store = open_model_store(artifacts) if artifacts else None
        missing = fetch_best(study, here, model_store, folders)
        if missing:
            raise HpoError(f"no model to predict with: {missing}")
    say(f"model of trial {best.number}: {os.path.relpath(here)}")
    return here
