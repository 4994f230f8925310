"""Finds out which process of how many this is, from what mpirun, torchrun or srun says.

No torch here: who is first must be known before anything is written, and torch takes a second.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import ConfigError


@dataclass(frozen=True)
class Launch:
    """This process among those that were started together.

    Attributes:
        rank: 0 is the first process, which writes everything.
        size: number of processes.
        local_rank: its number on this machine.
        local_size: processes on this machine; 1 where the launcher does not say.
        has_address: MASTER_ADDR and MASTER_PORT say where the processes meet.
        job: the same text for the processes of one launch on this machine and for no others.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    has_address: bool = False
    job: str = ""

    @property
    def is_on_one_machine(self) -> bool:
        return self.local_size == self.size


@dataclass(frozen=True)
class _Names:
    rank: str
    size: str
    local_rank: str
    local_size: str
    also_needed: tuple[str, ...] = ()


_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
_LAUNCHERS = (
    _Names(
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    # MPICH and Intel MPI. Before Slurm, which starts one proxy of theirs per node.
    _Names("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    # Not SLURM_NTASKS: a batch script has it too, where a single process runs. Only srun sets the
    # tasks of a step.
    _Names("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", ""),
    # RANK alone may mean anything: torchrun always gives the address as well.
    _Names("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", _ADDRESS),
)


def find_launch(environment: Mapping[str, str]) -> Launch:
    """Return this process's place; alone unless a launcher started several.

    Raises:
        ConfigError: a launcher's variable holds no number, or they contradict each other.
    """
    for names in _LAUNCHERS:
        if all(name in environment for name in (names.rank, names.size, *names.also_needed)):
            size = _number(environment, names.size)
            if size > 1:
                return _launch(environment, names, size)
    return Launch()


def _launch(environment: Mapping[str, str], names: _Names, size: int) -> Launch:
    rank = _number(environment, names.rank)
    if rank >= size:
        raise ConfigError(f"{names.rank}={rank}, but {names.size}={size}")
    local = next((n for n in (names.local_rank, "SLURM_LOCALID") if n in environment), None)
    if names.local_size in environment:
        local_size = _number(environment, names.local_size)
    else:
        local_size = size if environment.get("SLURM_STEP_NUM_NODES") == "1" else 1
    return Launch(
        rank=rank,
        size=size,
        local_rank=_number(environment, local) if local else 0,
        local_size=local_size,
        has_address=all(environment.get(name) for name in _ADDRESS),
        job=_job(environment),
    )


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not text.isdecimal():
        raise ConfigError(f"{name}: expected a number from the launcher, received {text!r}")
    return int(text)


def _job(environment: Mapping[str, str]) -> str:
    # Open MPI names its daemon's port, Slurm its step; others start the processes of one machine
    # from one parent, whose number and start no other launch has.
    marks = [
        f"{name}={value}"
        for name, value in sorted(environment.items())
        if name == "PMIX_NAMESPACE" or name.startswith("PMIX_SERVER_URI")
    ]
    if not marks and "SLURM_STEP_ID" in environment:
        slurm = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        marks = [environment.get(name, "") for name in slurm]
    if not marks:
        marks = [str(os.getppid()), _start_of(os.getppid())]
    return hashlib.sha256("\n".join(marks).encode()).hexdigest()[:16]


def _start_of(process: int) -> str:
    """Return when a process started, in ticks since the machine did; empty without /proc."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]
