"""Trains one network with several processes, each on its part of every batch.

Gradients are summed here instead of by torch's DistributedDataParallel: that wraps `forward`,
while training takes `NetworkModule.logits`; it averages over processes, while parts of a batch may
differ in size; and unused parameters would have to be searched for at each step.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import torch
import torch.distributed as dist

# Before any process group: its default arguments keep the one that they find, and a group that
# lives on at the interpreter's end takes the process with it (SIGABRT).
import torch.distributed.nn.functional
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed import FileStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm

from trainer.compute.device import choose_device
from trainer.compute.launch import Launch
from trainer.errors import (
    ConfigError,
    LostProcessError,
    ReportedError,
    StopRequestedError,
    TrainerError,
)

T = TypeVar("T")

MEETING_TIMEOUT_S = 120.0  # from the first process's start to the last one's
# For a machine that is gone without a word; a process that dies is noticed at once. Long enough
# for the first process to write predictions meanwhile.
SILENCE_TIMEOUT = timedelta(minutes=10)
BUCKET_NUMEL = 2**23  # 32 MiB of float32: few calls, and no second copy of a large network


class World:
    """The processes of one run. With one, every method gives back what it is given."""

    def __init__(self, launch: Launch | None = None) -> None:
        self._launch = launch or Launch()
        self.rank, self.size = self._launch.rank, self._launch.size
        self.is_first = self.rank == 0
        self._store: Store | None = None
        self._meeting_file: Path | None = None
        self._uses_nccl = False

    @property
    def backend(self) -> str:
        """Name what carries gradients."""
        return "NCCL" if self._uses_nccl else "gloo"

    def connect(self, wanted: str) -> torch.device:
        """Meet the other processes and return the device to compute on.

        Raises:
            ConfigError: several machines and no address, or no GPU though one is asked for.
            TrainerError: the others do not come.
        """
        device = choose_device(wanted, self._launch.local_rank)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # what calls without a device's number mean
        if self.size == 1:
            return device
        _share_cores(self._launch)
        if self._launch.is_on_one_machine:
            # A machine's own name need not lead to it (in a container without network, say).
            os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
        with self._others_awaited():
            if not self._launch.has_address:
                self._meeting_file = _meeting_file(self._launch)
            store = self._store = _open_store(self._launch, self._meeting_file)
            self._meet(store)
            self._forget_meeting_file()
            store.set(f"device {self.rank}", _identity(device))
            devices = {store.get(f"device {rank}") for rank in range(self.size)}
            # NCCL refuses two processes on one GPU.
            self._uses_nccl = len(devices) == self.size and b"cpu" not in devices
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if self._uses_nccl else "gloo",
                store=store,
                rank=self.rank,
                world_size=self.size,
                timeout=SILENCE_TIMEOUT,
            )
        return device

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Part in peace, or agree on what went wrong.

        A failure seldom comes alone: all find the same mistake, or lose the process that made it.
        One message is enough, and its exit code is that of every process.
        """
        self._forget_meeting_file()
        if self._store is None:
            return
        try:
            if error is not None:
                self._agree_on(error, self._store)
        finally:
            self._store = None
            # NCCL would wait for the lost.
            if dist.is_initialized() and (error is None or not self._uses_nccl):
                dist.destroy_process_group()

    def _agree_on(self, error: BaseException, store: Store) -> None:
        exit_code = TrainerError.exit_code
        if isinstance(error, (TrainerError, StopRequestedError)):
            exit_code = error.exit_code
        try:
            text = store.compare_set("failure", "", f"{self.rank} {exit_code}")
        except RuntimeError:  # the process that kept the store is gone
            return
        rank, first_code = text.decode().split()
        if int(rank) != self.rank:
            raise ReportedError(int(first_code)) from None

    def part(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this process's part: parts follow each other, the first ones may be longer."""
        return self.parts(indices)[self.rank]

    def parts(self, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the parts of all processes."""
        return np.array_split(indices, self.size) if self.size > 1 else [indices]

    def part_sizes(self, number: int) -> list[int]:
        """Return how many of `number` samples each process has."""
        return [(number + self.size - 1 - rank) // self.size for rank in range(self.size)]

    def sum_gradients(self, network: nn.Module, loss: Tensor) -> Tensor:
        """Replace gradients by their sums over all processes; return that of the loss.

        Every process must have gradients of the same parameters. All get the same bits, so
        that their weights stay the same.
        """
        if self.size == 1:
            return loss
        # In the order of the parameter's memory, where flattening costs no transposition.
        gradients = [
            p.grad.movedim(1, -1) if _is_channels_last(p) else p.grad
            for p in network.parameters()
            if p.grad is not None
        ]
        total = loss.detach().clone()
        with torch.no_grad():
            self._in_buckets([total, *gradients], dist.all_reduce)
        return total

    def average_batch_statistics(self, network: nn.Module) -> None:
        """Average the running statistics of BatchNorm, which each process has of its parts."""
        if self.size == 1:
            return
        statistics = [
            values
            for module in network.modules()
            if isinstance(module, _BatchNorm) and module.training
            for values in (module.running_mean, module.running_var)
            if values is not None
        ]
        self._in_buckets(statistics, dist.all_reduce)
        for values in statistics:
            values /= self.size

    def copy_from_first(self, network: nn.Module) -> None:
        """Take over the first process's weights; other CPUs may have rounded theirs otherwise."""
        if self.size > 1:
            values = [v for v in network.state_dict().values() if v.is_floating_point()]
            self._in_buckets(values, partial(dist.broadcast, src=0))

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in their order."""
        if self.size == 1:
            return [value]
        gathered: list[T | None] = [None] * self.size
        with self._others_awaited():
            dist.all_gather_object(gathered, value)
        return gathered  # type: ignore[return-value]  # filled by now

    def gather_to_first(self, value: T) -> list[T]:
        """Return the values of all processes to the first one, to the others nothing."""
        if self.size == 1:
            return [value]
        gathered: list[T | None] | None = [None] * self.size if self.is_first else None
        with self._others_awaited():
            dist.gather_object(value, gathered)
        return gathered or []  # type: ignore[return-value]  # filled by now

    def _in_buckets(
        self, values: Sequence[Tensor], collective: Callable[[Tensor], object]
    ) -> None:
        for bucket in _buckets(values):
            flat = torch.cat([value.flatten() for value in bucket])
            # gloo would copy what is on a GPU as well, and not from every kind of process
            sent = flat if self._uses_nccl else flat.cpu()
            with self._others_awaited():
                collective(sent)
            parts = torch.split(sent.to(flat.device), [value.numel() for value in bucket])
            for value, part in zip(bucket, parts, strict=True):
                value.copy_(part.view(value.shape))

    def _meet(self, store: Store) -> None:
        # Polled, because a signal cannot end torch's own wait.
        store.add("present", 1)
        deadline = time.monotonic() + MEETING_TIMEOUT_S
        while (present := store.add("present", 0)) < self.size:
            if time.monotonic() > deadline:
                raise TrainerError(
                    f"{present} of {self.size} processes are here after {MEETING_TIMEOUT_S:.0f} "
                    "s: the others have failed, or see another folder for temporary files "
                    "(set MASTER_ADDR and MASTER_PORT then)"
                )
            time.sleep(0.01)

    def _forget_meeting_file(self) -> None:
        # As soon as all have it open, so that no way to end leaves it behind: not even SIGKILL.
        if self._meeting_file is not None:
            self._meeting_file.unlink(missing_ok=True)
            self._meeting_file = None

    @contextlib.contextmanager
    def _others_awaited(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise LostProcessError(
                f"process {self.rank + 1} of {self.size} has lost the others: one of them was "
                f"killed or does not answer ({str(error).splitlines()[0]})"
            ) from None


def _meeting_file(launch: Launch) -> Path:
    if not launch.is_on_one_machine:
        raise ConfigError(
            "processes on several machines must know where to meet: set MASTER_ADDR (the first "
            "machine) and MASTER_PORT (a free port there), with mpirun by -x"
        )
    # A file, because a port that is free now may be taken when it is used.
    return Path(tempfile.gettempdir()) / f"rmldnn-{os.getuid()}-{launch.job}"


def _open_store(launch: Launch, meeting_file: Path | None) -> Store:
    if meeting_file is None:
        store: Store
        store, _, _ = next(rendezvous("env://", launch.rank, launch.size, timeout=SILENCE_TIMEOUT))
        return store
    # torch opens its file anew for each access. By the name of a descriptor it can still do so
    # when the file has no other name any more; that is why the descriptor stays open to the end.
    descriptor = os.open(meeting_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    store = FileStore(f"/dev/fd/{descriptor}", launch.size)
    store.set_timeout(timedelta(seconds=MEETING_TIMEOUT_S))
    return store


def _identity(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    return f"{socket.gethostname()} {torch.cuda.get_device_properties(device).uuid}"


def _loopback() -> str:
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name in ("lo", "lo0")), names[0])


def _share_cores(launch: Launch) -> None:
    """Give each process its share of the cores, unless the launcher or the user has done so."""
    num_cores = os.cpu_count() or 1
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > num_cores // 2:
        torch.set_num_threads(max(1, num_cores // launch.local_size))


def _is_channels_last(value: Tensor) -> bool:
    return value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)


def _buckets(values: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    numel = 0
    for value in values:
        bucket.append(value)
        numel += value.numel()
        if numel >= BUCKET_NUMEL:
            yield bucket
            bucket, numel = [], 0
    if bucket:
        yield bucket


ALONE = World()
