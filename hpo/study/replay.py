"""`rml-study replay`: runs one trial again and compares its curve."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.command_line import as_options
from hpo.errors import HpoError, UsageError
from hpo.folders import WorkFolders
from hpo.launchers import Slot
from hpo.objective import Objective, objective_of
from hpo.records import RunRecord, run_of
from hpo.results.metrics import curve_of
from hpo.run.oneshot import run_config
from hpo.study.common import find_trial, opened_study, say, show_table
from hpo.study.options import StudyOptions, TrialNumber
from hpo.study.recorded import check_images, placed_config, recorded_config, recorded_mounts
from hpo.study.workers import WorkerOrPlainOptions, Workers, open_workers

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

# Same device, same seed: what another order of summing leaves, in a printed score.
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """Options of `rml-study replay`."""

    trial: TrialNumber
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Data folder (not needed where the study has a split here)"),
    ] = None
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="Largest difference that is rounding")
    ] = TOLERANCE
    study: StudyOptions
    workers: WorkerOrPlainOptions


@as_options
def replay(options: ReplayOptions) -> None:
    """Run one trial again from its recorded config, and compare the two curves.

    Only the config comes from the database: worker, image, data and folders are named here. Exit
    code 1 if the curves differ by more than rounding.
    """
    trial = options.trial
    with opened_study(options.study) as study:
        found, name = find_trial(study, trial), study.study_name
        attributes = study.user_attrs
    folders = WorkFolders.of(options.study.output_dir, name)
    provenance = run_of(found.user_attrs)
    if not provenance or not found.intermediate_values:
        raise UsageError(f"--trial {trial} has no recorded config or no curve to compare with")
    config = recorded_config(provenance)
    mounts = recorded_mounts(provenance, folders, options.data)
    check_images(provenance, mounts[0].path, folders)
    replays = folders.replay(trial)
    with open_workers(options.workers, mounts, study=name, attributes=attributes) as workers:
        say(f"trial {trial} again: {workers.text}")
        slot = _with_threads(workers.slots[0], provenance)
        placed = placed_config(config, provenance, mounts, workers.launcher)
        objective = objective_of(attributes)
        curve = _run(workers, slot, replays, placed, objective)
    _compare(found, curve, provenance, slot, options.tolerance)


def _with_threads(slot: Slot, provenance: RunRecord) -> Slot:
    """Give a slot the number of threads that the trial had: another sums in another order."""
    threads = provenance.get("cpu", {}).get("threads")
    if not isinstance(threads, int) or threads < 1 or threads == slot.num_threads:
        return slot
    say(f"threads: {threads}, as the trial had, not {slot.num_threads}")
    # With more threads than cores of its own it may run on all of them.
    cores = slot.cores[:threads] if threads <= len(slot.cores) else ()
    return replace(slot, num_threads=threads, cores=cores)


def _run(
    workers: Workers, slot: Slot, replays: Path, config: dict[str, Any], objective: Objective
) -> dict[int, float]:
    from hpo.plan.space import dropped_keys  # pydantic, which most commands do without

    if dropped := dropped_keys(config, known=workers.launcher.capabilities()):
        say(f"warning: this worker does not know, so does not get, {', '.join(dropped)}")
    run_dir = _new_folder(replays)
    ended = run_config(workers.launcher, slot, run_dir, config)
    assert ended is not None
    curve = curve_of(run_dir, config, ended.evaluations, objective)
    if not curve:
        raise HpoError(f"the worker ended with exit code {ended.exit_code}:\n{ended.log_tail}")
    say(f"its folder: {run_dir}")
    return curve


def _new_folder(parent: Path) -> Path:
    """Make a folder that is named by the time; two may begin within a second."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in itertools.count(1):
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError


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
