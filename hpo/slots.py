"""Divides this machine into slots, one for each worker that runs at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from hpo.errors import UsageError
from hpo.gpulocks import GpuLocks
from hpo.gpus import VISIBLE_DEVICES, Gpu, select_gpus, visible_gpus
from hpo.launchers import Slot
from hpo.options import WorkerOptions

MAX_DEFAULT_CPU_JOBS = 4


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


def reserve_slots(worker: WorkerOptions) -> Reservation:
    """Take the free GPUs, or the cores where there are none, and divide them.

    Raises:
        UsageError: the GPUs that are demanded are not there, or others use them.
    """
    locks = GpuLocks()
    try:
        gpus, left_out = _take_gpus(worker, locks)
    except BaseException:
        locks.close()
        raise
    per_trial = worker.gpus_per_trial
    if per_trial > 1 and len(gpus) < per_trial:
        locks.close()
        raise UsageError(f"--gpus-per-trial {per_trial}: {len(gpus)} GPU(s) are free here")
    groups = [gpus[i : i + per_trial] for i in range(0, len(gpus) - per_trial + 1, per_trial)]
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


def _take_gpus(worker: WorkerOptions, locks: GpuLocks) -> tuple[list[Gpu], str]:
    """Return the GPUs that are locked now, and which were left out and why."""
    _check(worker)
    gpus = () if worker.gpu is False else visible_gpus()
    demand = "--gpus" if worker.gpus else "--gpu" if worker.gpu else None
    if not gpus:
        if demand or worker.gpus_per_trial > 1:
            raise UsageError(
                f"{demand or '--gpus-per-trial'}: no NVIDIA GPU is visible here (see nvidia-smi "
                "and CUDA_VISIBLE_DEVICES); leave it out to use the CPU"
            )
        return [], ""
    # what a scheduler or the user names is his, whoever else computes there
    is_named = bool(worker.gpus) or VISIBLE_DEVICES in os.environ
    wanted = select_gpus(gpus, worker.gpus) if worker.gpus else gpus
    num_wanted = len(wanted)
    if worker.jobs:
        num_wanted = -(-worker.jobs // worker.trials_per_gpu) * worker.gpus_per_trial
    taken: list[Gpu] = []
    left_out: list[str] = []
    for gpu in wanted:
        if len(taken) >= num_wanted:
            break
        if gpu.num_processes and not is_named:
            left_out.append(f"{gpu.uuid} (another program computes on it)")
        elif not locks.take(gpu.uuid):
            left_out.append(f"{gpu.uuid} (another search has it)")
        else:
            taken.append(gpu)
    text = f"; left out: {', '.join(left_out)}" if left_out else ""
    if left_out and (not taken or worker.gpus):
        raise UsageError(
            f"no GPU is free here{text}; wait, name free ones with --gpus, or use --no-gpu"
        )
    return taken, text


def _check(worker: WorkerOptions) -> None:
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
