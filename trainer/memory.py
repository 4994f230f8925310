"""Tells "out of memory" from other failures, on GPUs and CPUs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from trainer.config import NeuralNetwork
from trainer.errors import OutOfMemoryError

# How torch's CPU allocator says it: it has no exception type of its own.
_CPU_ALLOCATOR = "DefaultCPUAllocator"


@contextlib.contextmanager
def memory_errors_named(config: NeuralNetwork) -> Iterator[None]:
    """Turn every kind of memory error into an OutOfMemoryError that names the batch size."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        is_memory = not isinstance(error, RuntimeError) or isinstance(
            error, torch.OutOfMemoryError
        )
        if not is_memory and _CPU_ALLOCATOR not in str(error):
            raise
        first_line = str(error).splitlines()[0] if str(error) else "no memory left"
        raise OutOfMemoryError(
            f"out of memory with data.batch_size={config.data.batch_size} "
            f"(test_batch_size={config.data.test_batch_size}): {first_line}; "
            "try half the batch size, or a smaller data.transforms resize"
        ) from None
