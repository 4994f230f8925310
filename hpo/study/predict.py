"""`rml-study predict`: segments images with the study's best model."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.errors import HpoError, UsageError
from hpo.keys import STUDY_ID
from hpo.launchers import DEFAULT_IMAGE, Mount
from hpo.run.oneshot import run_worker
from hpo.study.common import (
    OutputDir,
    Storage,
    StorageFile,
    StudyName,
    database_url,
    opened_study,
    say,
)
from hpo.study.export import Artifacts
from hpo.study.workers import (
    DockerImage,
    Gpu,
    LauncherKind,
    SingularityImage,
    Worker,
    WorkerChoice,
    open_workers,
)

if TYPE_CHECKING:
    import optuna


def predict(  # noqa: PLR0913  # a command's options
    images: Annotated[Path, typer.Option("--images", help="Folder of images, of any size")],
    out: Annotated[Path, typer.Option("--out", help="New folder for masks and overlays")],
    study_name: StudyName = None,
    storage: Storage = None,
    storage_file: StorageFile = None,
    output_dir: OutputDir = Path(),
    artifacts: Artifacts = None,
    launcher: LauncherKind = "auto",
    worker: Worker = None,
    docker_image: DockerImage = DEFAULT_IMAGE,
    singularity_image: SingularityImage = None,
    gpu: Gpu = None,
) -> None:
    """Segment a folder of images with the study's best model.

    Writes masks/, overlays/ and output_1.h5 (probabilities), as `rmldnn --predict` does.
    """
    if not images.is_dir():
        raise UsageError(f"--images: no such folder: {images}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out: {out} is there and not empty; name a new folder")
    choice = WorkerChoice(
        launcher=launcher, worker=worker, docker_image=docker_image,
        singularity_image=singularity_image, gpu=gpu,
    )  # fmt: skip
    # Beside the results, because a container may not be able to read /tmp of this host.
    with (
        opened_study(database_url(storage, storage_file, output_dir), study_name) as study,
        tempfile.TemporaryDirectory(prefix=".predict.", dir=output_dir) as aside,
    ):
        model = _find_model(study, output_dir.absolute(), Path(aside).absolute(), artifacts)
        mounts = (
            Mount(name="model", path=model),
            Mount(name="images", path=images.absolute()),
        )
        with open_workers(
            choice, mounts, study=study.study_name, attributes=study.user_attrs, warm=False
        ) as workers:
            if not workers.launcher.capabilities():
                raise UsageError(
                    f"{workers.launcher.describe()}: this worker has no --predict; take our own "
                    "(leave out --worker and --docker-image)"
                )
            say(f"segmenting: {workers.text}")
            made = not out.exists()
            out.mkdir(parents=True, exist_ok=True)
            paths = [workers.launcher.worker_path(mount) for mount in mounts]
            args = ("--predict", paths[0], "--images", paths[1], "--out", ".")
            ended = run_worker(workers.launcher, workers.slots[0], out.absolute(), args=args)
        assert ended is not None
        if ended.exit_code != 0:
            if made:  # else the next call would find it in its way
                shutil.rmtree(out, ignore_errors=True)
            raise HpoError(f"exit code {ended.exit_code} of the worker:\n{ended.log_tail}")
    masks = sum(1 for _ in (out / "masks").glob("*.png"))
    say(f"{masks} masks and overlays in {out}")


def _find_model(study: optuna.Study, output: Path, aside: Path, artifacts: str | None) -> Path:
    """Return the folder of the best model: the one here, or a copy of where it is."""
    from hpo.results.artifacts import open_model_store
    from hpo.results.models import fetch_best, is_model_of, study_folders
    from hpo.store.study import best_trial

    best, here = best_trial(study), output / "best_model"
    if best is None:
        raise UsageError(f"study {study.study_name!r} has no finished trial yet")
    if not is_model_of(here, best, study.user_attrs.get(STUDY_ID)):
        aside.chmod(0o755)  # a container's user is not us
        here = aside / "best_model"
        folders = study_folders(output, study.study_name)
        model_store = open_model_store(artifacts) if artifacts else None
        missing = fetch_best(study, here, model_store, folders)
        if missing:
            raise HpoError(f"no model to predict with: {missing}")
    say(f"model of trial {best.number}: {os.path.relpath(here)}")
    return here
