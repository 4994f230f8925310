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
from hpo.keys import DATABASE_ID
from hpo.launchers import AUTO, DEFAULT_IMAGE, Launcher, Mount, Slot, choose_launcher
from hpo.owner import driver_labels
from hpo.plan.options import launcher_option


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Worker"""

    launcher: Annotated[str, launcher_option("As of rml-optimize")] = AUTO
    worker: Annotated[str | None, typer.Option("--worker", help="Command of a local worker")] = (
        None
    )
    docker_image: Annotated[str, typer.Option("--docker-image", help="Image of a container")] = (
        DEFAULT_IMAGE
    )
    singularity_image: Annotated[
        str | None, typer.Option("--singularity-image", help="Image file of a container")
    ] = None
    gpu: Annotated[bool | None, typer.Option("--gpu/--no-gpu", help="Demand or refuse GPUs")] = (
        None
    )

    @property
    def is_plain(self) -> bool:
        """Say whether the worker knows the contract only, and is not asked what else it can do."""
        return False


@dataclass(frozen=True, kw_only=True)
class WorkerOrPlainOptions(WorkerOptions):
    """Worker"""

    plain_worker: Annotated[
        bool, typer.Option("--plain-worker", help="As of rml-optimize: the worker is not asked")
    ] = False

    @property
    def is_plain(self) -> bool:
        """Say whether the worker knows the contract only, and is not asked what else it can do."""
        return self.plain_worker


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
    chosen: WorkerOptions,
    mounts: Sequence[Mount],
    *,
    study: str,
    attributes: Mapping[str, Any],
    jobs: int | None = 1,
    **settings: Any,
) -> Iterator[Workers]:
    """Reserve slots and choose a launcher; all workers are gone when the block ends.

    Args:
        chosen: what the command line says.
        mounts: the folders that the workers read.
        study: its name, and `attributes` its user attributes.
        jobs: how many run at a time, None for as many as a search runs.
        settings: further fields of LaunchSettings.

    Raises:
        UsageError, LauncherError: no such GPU, engine, image or command here.
    """
    from hpo.launchers.slots import SlotRequest, reserve_slots

    try:
        worker = tuple(shlex.split(chosen.worker)) if chosen.worker else None
    except ValueError as error:
        raise UsageError(f"--worker: {chosen.worker!r} is no command ({error})") from None
    labels = driver_labels(str(attributes.get(DATABASE_ID, "")))
    reservation = reserve_slots(SlotRequest(gpu=chosen.gpu, jobs=jobs))
    try:
        launcher, why = choose_launcher(
            chosen.launcher,
            worker=worker,
            plain=chosen.is_plain,
            num_slots=len(reservation.slots),
            image=chosen.docker_image,
            singularity_image=chosen.singularity_image,
            mounts=mounts,
            labels={"rml.study": study, **labels},
            **{"warn": _warn, **settings},
        )
        try:
            yield Workers(launcher, reservation.slots, f"{reservation.text}; launcher: {why}")
        finally:
            launcher.close()
    finally:
        reservation.close()
