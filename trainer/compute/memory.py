"""Tells "out of memory" from other failures, and finds the batch that fits."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from trainer.config import NeuralNetwork
from trainer.errors import HostMemoryError, OutOfMemoryError

T = TypeVar("T")

# How torch's CPU allocator says it: it has no exception type of its own.
_CPU_ALLOCATOR = "DefaultCPUAllocator"
# oneDNN, where it has no memory for the code that it generates ("… descriptor" is another matter).
_ONEDNN_ALLOCATION = "could not create a primitive"
# What CUDA and its libraries allocate besides torch's own memory, where other programs have the
# rest: kernels, workspaces, pinned memory.
_CUDA_ALLOCATIONS = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)


@contextlib.contextmanager
def memory_errors_named(config: NeuralNetwork) -> Iterator[None]:
    """Turn every kind of memory error into an OutOfMemoryError that names the batch size.

    On a GPU, a lack of the machine's own memory says nothing of the batch.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        if torch.cuda.is_initialized() and _is_of_host(error):  # type: ignore[no-untyped-call]
            raise HostMemoryError(
                f"the machine has no memory left, its GPU has: {_first_line(error)}"
            ) from None
        raise OutOfMemoryError(
            f"out of memory with data.batch_size={config.data.batch_size} "
            f"(test_batch_size={config.data.test_batch_size}): {_first_line(error)}; "
            "try half the batch size, or a smaller data.transforms resize"
        ) from None


def nothing_to_free() -> bool:
    """Say that nothing holds memory that could be given back."""
    return False


def with_freed_memory(compute: Callable[[], T], free: Callable[[], bool]) -> T:
    """Compute; where memory is short, once more if `free` gave some back."""
    try:
        return compute()
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_shortage(error) or not free():
            raise
    return compute()


@dataclass
class BatchFitter:
    """Computes the gradients of a batch, in pieces where the memory has no room for the whole.

    Attributes:
        batch_size: what the config asks for, of all processes.
        num_processes: how many share a batch.
        may_halve: go on in pieces; otherwise only find out which size would fit, and fail.
        reserve: allocates what the optimizer will need besides, so that what fits now will do.
        log: told when the size changes.
        piece: samples that this process computes at once; None while whole batches fit.
        free: gives memory back that is held for speed alone; False if there is none.
    """

    batch_size: int
    num_processes: int
    may_halve: bool
    reserve: Callable[[], object]
    log: Callable[[str], None]
    piece: int | None = None
    free: Callable[[], bool] = nothing_to_free

    def compute(
        self,
        num_samples: int,
        gradients: Callable[[int], Tensor],
        undo: Callable[[], object] = nothing_to_free,
    ) -> Tensor:
        """Return what `gradients` returns, called with the number of samples to take at once.

        Args:
            num_samples: of this process's part of the batch.
            gradients: computes them.
            undo: takes back what else a try has changed that came to nothing.

        Raises:
            OutOfMemoryError: no room; it names the batch size that has been found to fit.
        """
        before = size = min(self.piece or num_samples, num_samples)
        loss, shortage = _try(gradients, size, undo)
        if loss is None and self.free():
            loss, shortage = _try(gradients, size, undo)
        while loss is None and size > 1:
            size = -(-size // 2)
            loss, _ = _try(gradients, size, undo, self.reserve)
        if loss is None:
            raise OutOfMemoryError(
                f"out of memory with data.batch_size={self.batch_size}, and with 1: {shortage}; "
                "try a smaller data.transforms resize, data.tiles, or a smaller network"
            )
        if size < before and not self.may_halve:
            raise OutOfMemoryError(
                f"out of memory with data.batch_size={self.batch_size}: {shortage}; "
                f"{min(self.batch_size, size * self.num_processes)} fits, as a trial has shown; "
                "set that, or data.halve_batch_on_oom to compute the same batch in pieces"
            )
        if size < before:
            self.piece = size
            self.log(
                f"Out of memory with {before} samples at once ({shortage}): from now on gradients "
                f"are summed over pieces of {size}, for the same batch size"
            )
        return loss


def _try(
    gradients: Callable[[int], Tensor],
    size: int,
    undo: Callable[[], object],
    reserve: Callable[[], object] | None = None,
) -> tuple[Tensor | None, str]:
    """Return the result, or what the shortage is, with everything freed that led to it."""
    try:
        reserved = reserve() if reserve else None
        loss = gradients(size)
        del reserved
        return loss, ""
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        shortage = _first_line(error)
    # Only now: until here the error's traceback held all tensors.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    undo()
    return None, shortage


def is_shortage(error: BaseException) -> bool:
    """Say whether an error is that memory is short, of the device or of the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return (
        _CPU_ALLOCATOR in text
        or text.strip() == _ONEDNN_ALLOCATION
        or any(words in text for words in _CUDA_ALLOCATIONS)
    )


def _is_of_host(error: BaseException) -> bool:
    text = str(error)
    names = (_CPU_ALLOCATOR, "HOST_ALLOCATION_FAILED")
    return isinstance(error, MemoryError) or any(name in text for name in names)


def _first_line(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else "no memory left"
    return text.rpartition(f"{_CPU_ALLOCATOR}: ")[2]  # without torch's own place in the code
