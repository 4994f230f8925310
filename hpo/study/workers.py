"""Workers of the commands that train or predict again: their options, and how they are started.

Nothing of this comes from the database, which others may write: a command in it would be run.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from hpo.console import errors
from hpo.errors import UsageError
from hpo.launchers import AUTO, DEFAULT_IMAGE, Launcher, Mount, Slot, choose_launcher
from hpo.owner import driver_labels
from hpo.plan.options import launcher_option

LauncherKind = Annotated[str, launcher_option("As of rml-optimize")]
Worker = Annotated[str | None, typer.Option("--worker", help="Command of a local worker")]
PlainWorker = Annotated[
    bool, typer.Option("--plain-worker", help="As of rml-optimize: the worker is not asked")
]
DockerImage = Annotated[str, typer.Option("--docker-image", help="Image of a container")]
SingularityImage = Annotated[
    str | None, typer.Option("--singularity-image", help="Image file of a container")
]
Gpu = Annotated[bool | None, typer.Option("--gpu/--no-gpu", help="Demand or refuse GPUs")]


@dataclass(frozen=True, kw_only=True)
class WorkerChoice:
    """What the options say of the worker."""

    launcher: str = AUTO
    worker: str | None = None
    plain: bool = False
    docker_image: str = DEFAULT_IMAGE
    singularity_image: str | None = None
    gpu: bool | None = None
    jobs: int | None = 1


@dataclass(frozen=True)
class Workers:
    """A launcher with the slots that it may use; `text` says which they are."""

    launcher: Launcher
    slots: Sequence[Slot]
    text: str


def _warn(text: str) -> None:
    errors.print(f"warning: {text}", markup=False)


@contextlib.contextmanager
def open_workers(
    choice: WorkerChoice,
    mounts: Sequence[Mount],
    *,
    study: str,
    attributes: Mapping[str, Any],
    **options: Any,
) -> Iterator[Workers]:
    """Reserve slots and choose a launcher; all workers are gone when the block ends.

    Args:
        choice: what the command line says.
        mounts: the folders that the workers read.
        study: its name, and `attributes` its user attributes.
        options: further fields of LaunchSettings.

    Raises:
        UsageError, LauncherError: no such GPU, engine, image or command here.
    """
    from hpo.launchers.slots import SlotRequest, reserve_slots
    from hpo.store.study import DATABASE_ID

    try:
        worker = tuple(shlex.split(choice.worker)) if choice.worker else None
    except ValueError as error:
        raise UsageError(f"--worker: {choice.worker!r} is no command ({error})") from None
    labels = driver_labels(str(attributes.get(DATABASE_ID, "")))
    reservation = reserve_slots(SlotRequest(gpu=choice.gpu, jobs=choice.jobs))
    try:
        launcher, why = choose_launcher(
            choice.launcher,
            worker=worker,
            plain=choice.plain,
            num_slots=len(reservation.slots),
            image=choice.docker_image,
            singularity_image=choice.singularity_image,
            mounts=mounts,
            labels={"rml.study": study, **labels},
            **{"warn": _warn, **options},
        )
        try:
            yield Workers(launcher, reservation.slots, f"{reservation.text}; launcher: {why}")
        finally:
            launcher.close()
    finally:
        reservation.close()
