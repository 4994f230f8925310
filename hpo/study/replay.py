"""`rml-study replay`: runs one trial again and compares its curve."""

from __future__ import annotations

import json
import shlex
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hpo.errors import HpoError, UsageError
from hpo.launchers import DEFAULT_IMAGE, Launcher, Mount, Slot, WorkerJob, choose_launcher
from hpo.provenance import PROVENANCE, config_hash
from hpo.study.common import (
    OutputDir,
    Storage,
    StorageFile,
    StudyName,
    TrialNumber,
    database_url,
    find_trial,
    opened_study,
    say,
    show_table,
)
from trainer import rundir
from trainer.keypath import get_path, set_path

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

POLL_INTERVAL_S = 0.1
# Same device, same seed: what another order of summing leaves, in a printed accuracy.
TOLERANCE = 1e-4


def replay(  # noqa: PLR0913  # a command's options
    trial: TrialNumber,
    study_name: StudyName = None,
    storage: Storage = None,
    storage_file: StorageFile = None,
    output_dir: OutputDir = Path(),
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Data folder (not needed where the study has a split here)"),
    ] = None,
    launcher: Annotated[
        Literal["auto", "local", "docker", "singularity"],
        typer.Option("--launcher", help="As of rml-optimize"),
    ] = "auto",
    worker: Annotated[
        str | None, typer.Option("--worker", help="Command of a local worker")
    ] = None,
    docker_image: Annotated[
        str, typer.Option("--docker-image", help="Image of a container")
    ] = DEFAULT_IMAGE,
    singularity_image: Annotated[
        str | None, typer.Option("--singularity-image", help="Image file of a container")
    ] = None,
    gpu: Annotated[
        bool | None, typer.Option("--gpu/--no-gpu", help="Demand or refuse GPUs")
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="Largest difference that is rounding")
    ] = TOLERANCE,
) -> None:
    """Run one trial again from its recorded config, and compare the two curves.

    Only the config comes from the database: worker, image, data and folders are named here. Exit
    code 1 if the curves differ by more than rounding.
    """
    from hpo.options import WorkerOptions
    from hpo.slots import reserve_slots

    with opened_study(database_url(storage, storage_file, output_dir), study_name) as study:
        found = find_trial(study, trial)
        folder = output_dir.absolute() / "runs" / study.study_name
    provenance = found.user_attrs.get(PROVENANCE)
    if not provenance or not found.intermediate_values:
        raise UsageError(f"--trial {trial} has no recorded config or no curve to compare with")
    config = _recorded_config(provenance)
    mounts = _mounts(provenance, folder, data)
    chosen, why = choose_launcher(
        launcher,
        worker=tuple(shlex.split(worker)) if worker else None,
        image=docker_image,
        singularity_image=singularity_image,
        mounts=mounts,
        labels={"rml.study": study.study_name, "rml.host": socket.gethostname()},
    )
    reservation = reserve_slots(WorkerOptions(gpu=gpu, jobs=1))
    slot = reservation.slots[0]
    say(f"trial {trial} again: {why}, {reservation.text}")
    run_dir = folder / f"replay_of_trial_{trial:05d}" / time.strftime("%Y%m%d-%H%M%S")
    try:
        curve = _run(chosen, slot, run_dir, _placed(config, provenance, mounts, chosen))
    finally:
        chosen.close()
        reservation.close()
    _compare(found, curve, provenance, slot, tolerance)


def _recorded_config(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the trial's whole config: from the database, or from its run folder if too long."""
    if not provenance.get("is_shortened"):
        return dict(provenance["config"])
    path = Path(provenance["run_dir"]) / rundir.CONFIG
    try:
        config = dict(json.loads(rundir.read_untrusted(path))["neural_network"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"the trial's config is too long for the database, and {path} cannot be read here; "
            f"it is on host {provenance.get('host')}"
        ) from None
    config["layers"] = provenance["config"]["layers"]
    if config_hash(config) != provenance["config_hash"]:
        raise UsageError(f"{path} is not the config that the trial ran with")
    return config


def _mounts(provenance: Mapping[str, Any], folder: Path, data: Path | None) -> tuple[Mount, Mount]:
    """Return what the worker reads: images and networks, in folders of this command line."""
    name = Path(str(provenance["data"]["folder"])).name
    images = folder / name if name != "data" else data
    if images is None:
        raise UsageError("--data is needed: the trial read the data folder itself")
    inputs = folder / "inputs"
    for path, what in ((images, "images"), (inputs, "networks")):
        if not path.is_dir():
            raise UsageError(
                f"the study's {what} are not here ({path}); give the --output-dir that the study "
                f"had, or replay on host {provenance.get('host')}"
            )
    return Mount(name="data", path=images.absolute()), Mount(name="inputs", path=inputs)


def _placed(
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    mounts: tuple[Mount, Mount],
    launcher: Launcher,
) -> dict[str, Any]:
    """Return the config with the paths as the worker sees them here."""
    placed: dict[str, Any] = json.loads(json.dumps(config))
    images, inputs = mounts
    for part, keys in (
        ("train", ("input_path", "target_path")),
        ("test", ("test_input_path", "test_target_path")),
    ):
        for key, relative in zip(keys, provenance["data"][part], strict=True):
            if Path(relative).is_absolute() or ".." in Path(relative).parts:
                raise UsageError(f"the trial's record names a path outside its data: {relative}")
            set_path(placed, f"data.{key}", launcher.worker_path(images, relative))
    network = Path(str(provenance["network"])).name
    if not (inputs.path / network).is_file():
        raise UsageError(f"the trial's network is not here: {inputs.path / network}")
    placed["layers"] = launcher.worker_path(inputs, network)
    weights = get_path(placed, "checkpoints.load")
    if weights:
        path = launcher.worker_path(inputs, Path(str(weights)).name)
        set_path(placed, "checkpoints.load", path)
    return placed


def _run(
    launcher: Launcher, slot: Slot, run_dir: Path, config: dict[str, Any]
) -> dict[int, float]:
    from hpo.space import without_extensions

    run_dir.mkdir(parents=True)
    known = launcher.capabilities()
    written = {"neural_network": without_extensions(config, known=known)}
    rundir.write_atomic(run_dir / rundir.CONFIG, json.dumps(written, indent=2))
    handle = launcher.start(WorkerJob(run_dir=run_dir, slot=slot))
    try:
        while (code := handle.poll()) is None:
            time.sleep(POLL_INTERVAL_S)
    finally:
        handle.stop()
    reader = rundir.TestLogReader(run_dir / rundir.TEST_LOG)
    curve = {evaluation.epoch: evaluation.accuracy for evaluation in reader.read_new()}
    if not curve:
        raise HpoError(f"the worker ended with exit code {code}:\n{handle.log_tail()}")
    say(f"its folder: {run_dir}")
    return curve


def _compare(
    trial: FrozenTrial,
    curve: Mapping[int, float],
    provenance: Mapping[str, Any],
    slot: Slot,
    tolerance: float,
) -> None:
    recorded = trial.intermediate_values
    common = sorted(set(recorded) & set(curve))
    show_table(
        [
            {
                "epoch": epoch,
                "recorded": f"{recorded[epoch]:.6f}",
                "again": f"{curve[epoch]:.6f}",
                "difference": f"{curve[epoch] - recorded[epoch]:+.1e}",
            }
            for epoch in common
        ]
    )
    missing = sorted(set(recorded) - set(curve))
    largest = max((abs(curve[epoch] - recorded[epoch]) for epoch in common), default=0.0)
    if missing or not common:
        raise HpoError(f"the second run has no epoch {', '.join(map(str, missing))}")
    if largest <= tolerance:
        say(f"equal: no difference above {largest:.1e} over {len(common)} epochs")
        return
    if _device(provenance.get("gpus", ())) != _device([{"uuid": u} for u in slot.gpu_uuids]):
        say("the devices differ, and so do their sums: compare the last epochs")
    raise HpoError(f"the curves differ by up to {largest:.1e}, more than {tolerance:g}")


def _device(gpus: Any) -> str:
    return "GPU" if gpus else "CPU"
