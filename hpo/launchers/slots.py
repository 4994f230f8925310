"""Divides this machine into slots, one for each worker that runs at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpo.console import errors
from hpo.errors import UsageError
from hpo.launchers import Slot
from hpo.launchers.gpulocks import GpuLocks
from hpo.launchers.gpus import (
    NO_DEVICES,
    VISIBLE_DEVICES,
    Gpu,
    Survey,
    find_traces,
    select_gpus,
    survey_gpus,
)

MAX_DEFAULT_CPU_JOBS = 4


def _warn(text: str) -> None:
    errors.print(f"warning: {text}", markup=False)


@dataclass(frozen=True, kw_only=True)
class SlotRequest:
    """How a machine is to be divided; each field is the option of that name."""

    gpu: bool | None = None
    gpus: str | None = None
    gpus_per_trial: int = 1
    trials_per_gpu: int = 1
    num_procs: int = 1
    jobs: int | None = None


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """The slots of a driver; its GPUs are locked until `close`.

    Attributes:
        text: what they are, for the settings table.
        num_procs: processes of each worker.
    """

    slots: Sequence[Slot]
    text: str
    num_procs: int
    locks: GpuLocks

    def close(self) -> None:
        """Let other drivers have the GPUs."""
        self.locks.close()


def reserve_slots(worker: SlotRequest, warn: Callable[[str], None] = _warn) -> Reservation:
    """Take the free GPUs, or the cores where there are none, and divide them.

    Args:
        worker: what is asked for.
        warn: takes a line for the user on a GPU that is there and not used.

    Raises:
        UsageError: the GPUs that are demanded are not there, or others use them; or the machine
            has GPUs of which none can be used, and nobody has said that the CPU will do.
    """
    locks = GpuLocks()
    try:
        gpus, left_out = _take_gpus(worker, locks, warn)
    except BaseException:
        locks.close()
        raise
    per_trial = worker.gpus_per_trial
    groups = [gpus[i : i + per_trial] for i in range(0, len(gpus), per_trial)]
    cores = _cores()
    natural = len(groups) * worker.trials_per_gpu if groups else _default_cpu_jobs(cores)
    num_slots = worker.jobs or natural
    num_threads = max(1, len(cores) // num_slots)
    # Pinned, trials do not push each other off their caches; with one there is nobody to push.
    is_pinned = not groups and 1 < num_slots <= len(cores)
    slots = [
        Slot(
            index=index,
            gpu_uuids=tuple(gpu.uuid for gpu in groups[index % len(groups)]) if groups else (),
            num_threads=num_threads,
            cores=tuple(cores[index * num_threads :][:num_threads]) if is_pinned else (),
        )
        for index in range(num_slots)
    ]
    device = ", ".join(sorted({gpu.name for gpu in gpus})) if groups else "CPU"
    share = f", {per_trial} GPUs each" if per_trial > 1 else ""
    return Reservation(
        slots=slots,
        text=f"{num_slots} at a time on {device}{share}, {num_threads} thread(s) each{left_out}",
        num_procs=max(worker.num_procs, per_trial),
        locks=locks,
    )


def _take_gpus(
    worker: SlotRequest, locks: GpuLocks, warn: Callable[[str], None]
) -> tuple[list[Gpu], str]:
    """Return the GPUs that are locked now, and which were left out and why."""
    _check(worker)
    gpus = usable_gpus(worker, warn)
    if not gpus:
        return [], ""
    # those that a scheduler or the user names are taken, whoever else computes there
    is_named = bool(worker.gpus) or VISIBLE_DEVICES in os.environ
    num_wanted = len(gpus)
    if worker.jobs:
        num_wanted = -(-worker.jobs // worker.trials_per_gpu) * worker.gpus_per_trial
    taken: list[Gpu] = []
    left_out: list[str] = []
    for gpu in gpus:
        if len(taken) >= num_wanted:
            break
        if gpu.num_processes and not is_named:
            left_out.append(f"{gpu.uuid} (another program computes on it)")
        elif gpu.is_instance and worker.gpus_per_trial > 1:
            left_out.append(f"{gpu.uuid} (a process uses one MIG instance, and cannot join two)")
        elif not locks.take(gpu.uuid):
            left_out.append(f"{gpu.uuid} (another search has it)")
        else:
            taken.append(gpu)
    text = f"; left out: {', '.join(left_out)}" if left_out else ""
    if left_out and (not taken or worker.gpus):
        raise UsageError(
            f"no GPU is free here{text}; wait, name free ones with --gpus, or use --no-gpu"
        )
    per_trial = worker.gpus_per_trial
    if len(taken) < per_trial:
        raise UsageError(f"--gpus-per-trial {per_trial}: {len(taken)} GPU(s) are free here{text}")
    while len(taken) % per_trial:
        spare = taken.pop()
        locks.release(spare.uuid)  # others may have it
        left_out.append(f"{spare.uuid} (too few for another {per_trial})")
    return taken, f"; left out: {', '.join(left_out)}" if left_out else ""


def usable_gpus(worker: SlotRequest, warn: Callable[[str], None]) -> tuple[Gpu, ...]:
    """Return the GPUs that are asked for, with a warning for each that cannot be used."""
    if worker.gpu is False:
        return ()
    survey = survey_gpus()
    visible = survey.visible()
    demand = "--gpus" if worker.gpus else "--gpu" if worker.gpu else None
    if worker.gpus_per_trial > 1:
        demand = demand or "--gpus-per-trial"
    if worker.gpus and visible:
        visible = select_gpus(visible, worker.gpus)
    usable = tuple(gpu for gpu in visible if not gpu.problem)
    why_none = _why_none(survey, visible, warn) if not usable else ""
    if not usable and (demand or why_none):
        why = why_none or "see nvidia-smi and CUDA_VISIBLE_DEVICES"
        text = "no NVIDIA GPU is visible here" if demand else "no GPU can be used here"
        remedy = "leave it out" if demand and not why_none else "say --no-gpu"
        raise UsageError(
            f"{demand + ': ' if demand else ''}{text} ({why}); {remedy} to use the CPU"
        )
    for gpu in visible:
        if gpu.problem and usable:
            warn(f"{gpu} is left out: {gpu.problem}")
    return usable


def _why_none(survey: Survey, visible: Sequence[Gpu], warn: Callable[[str], None]) -> str:
    """Say why a machine that should have GPUs has none for us; empty if it should not."""
    selection = os.environ.get(VISIBLE_DEVICES)
    if selection is not None and selection.split(",")[0].strip() in NO_DEVICES:
        return ""  # somebody has decided that
    if visible:
        return ", ".join(f"{gpu}: {gpu.problem}" for gpu in visible)
    if survey.gpus:
        known = ", ".join(f"{gpu.card} = {gpu.uuid}" for gpu in survey.gpus)
        return f"{VISIBLE_DEVICES}={selection} names none of {known}"
    trace, is_loaded = find_traces()
    failure = survey.failure or "NVML lists none"
    if survey.is_loaded or is_loaded or (trace and survey.has_library):
        return f"{trace} is there, but {failure}" if trace else failure
    if trace:
        warn(
            f"trials run on the CPU: {trace} is an NVIDIA GPU, but its driver is not installed "
            f"({failure})"
        )
    return ""


def _check(worker: SlotRequest) -> None:
    if worker.gpus is not None and not worker.gpus.strip():
        raise UsageError("--gpus: names no GPU; --no-gpu uses the CPU")
    if worker.gpus_per_trial > 1 and worker.trials_per_gpu > 1:
        raise UsageError("--gpus-per-trial and --trials-per-gpu exclude each other; drop one")
    if worker.gpu is False:
        for name, is_given in (
            ("--gpus", worker.gpus is not None),
            ("--gpus-per-trial", worker.gpus_per_trial > 1),
            ("--trials-per-gpu", worker.trials_per_gpu > 1),
        ):
            if is_given:
                raise UsageError(f"{name} has no effect with --no-gpu; drop one of the two")


def _cores() -> list[int]:
    """Return the cores that we may use: a scheduler's share, not the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _default_cpu_jobs(cores: Sequence[int]) -> int:
    return min(len(cores), MAX_DEFAULT_CPU_JOBS)
