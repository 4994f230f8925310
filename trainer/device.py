"""Chooses the device and the precision of a run."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.errors import ConfigError, TrainerError


def choose_device(wanted: str, local_rank: int = 0) -> torch.device:
    """Return a GPU where there is one and the config does not say otherwise.

    Args:
        wanted: `device` of the config.
        local_rank: the process's number on this machine: each takes the next GPU.

    Raises:
        ConfigError: `device` is "cuda" and torch sees no GPU.
    """
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ConfigError("device: 'cuda' is asked for, but torch sees no GPU here")
    if wanted == "cpu" or not has_gpu:
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def start(device: torch.device) -> None:
    """Make a GPU ready, and the one that calls without a device's number mean.

    Raises:
        TrainerError: it cannot be used: another process has it for itself, or it is broken.
    """
    if device.type != "cuda":
        return
    try:
        torch.cuda.set_device(device)
        torch.empty(1, device=device)
    except RuntimeError as error:
        raise TrainerError(
            f"GPU {device.index} cannot be used: {str(error).splitlines()[0]}; look at "
            "nvidia-smi, or set device to cpu"
        ) from None


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Return the type that training computes in.

    "auto" takes bfloat16 on GPUs that have it natively; on CPUs it stays float32, where bfloat16
    pays only with AVX-512 and would make the same search differ between machines.
    """
    if wanted == "bf16":
        return torch.bfloat16
    if wanted == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(False):
        return torch.bfloat16
    return torch.float32


def to_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to the device without waiting; on a CPU the tensor shares its memory."""
    tensor = torch.from_numpy(values)
    if device.type == "cpu":
        return tensor
    # From pageable memory even a copy that is "non-blocking" waits. The allocator of pinned memory
    # gives a block to nobody else before the copy is done.
    return tensor.pin_memory().to(device, non_blocking=True)


@contextlib.contextmanager
def compute_stream(device: torch.device) -> Iterator[None]:
    """Compute on a stream of our own: the default one cannot be captured as a CUDA graph."""
    if device.type != "cuda":
        yield
        return
    stream = _own_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(stream):
            yield
    finally:  # what the run leaves behind is free for the next one when its last kernel is done
        torch.cuda.current_stream(device).wait_stream(stream)


@functools.cache  # cuBLAS keeps memory for each stream that it was used on
def _own_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Compute in float32 what is float32, so that a score comes out again on another device.

    By default torch's convolutions on NVIDIA GPUs round their inputs to TF32, of 10 bits.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before
