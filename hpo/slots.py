"""Divides this machine into slots, one for each worker that runs at a time."""

from __future__ import annotations

import os

from hpo.errors import UsageError
from hpo.gpus import visible_gpus
from hpo.launchers import Slot

MAX_DEFAULT_CPU_JOBS = 4


def make_slots(*, gpu: bool | None, jobs: int | None) -> tuple[list[Slot], str]:
    """Return the slots and, for the settings table, what they are.

    Args:
        gpu: True demands GPUs, False refuses them, None takes those that are there.
        jobs: number of slots; by default one per GPU, on a CPU one per core up to 4.

    Raises:
        UsageError: GPUs are demanded and none is visible.
    """
    gpus = () if gpu is False else visible_gpus()
    if gpu and not gpus:
        raise UsageError(
            "--gpu: no NVIDIA GPU is visible here (see nvidia-smi and CUDA_VISIBLE_DEVICES); "
            "leave --gpu out to use the CPU"
        )
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    num_cores = num_cores or os.cpu_count() or 1
    num_slots = jobs or (len(gpus) if gpus else min(num_cores, MAX_DEFAULT_CPU_JOBS))
    num_threads = max(1, num_cores // num_slots)
    slots = [
        Slot(
            index=index,
            gpu_uuids=(gpus[index % len(gpus)].uuid,) if gpus else (),
            num_threads=num_threads,
        )
        for index in range(num_slots)
    ]
    device = ", ".join(sorted({entry.name for entry in gpus})) if gpus else "CPU"
    return slots, f"{num_slots} at a time on {device}, {num_threads} thread(s) each"
