"""Chooses the device and the precision of a run."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.errors import ConfigError, DeviceError, first_line


def choose_device(wanted: str, local_rank: int = 0) -> torch.device:
    """Return a GPU where there is one and the config does not say otherwise.

    Args:
        wanted: `device` of the config.
        local_rank: the process's number on this machine: each takes the next GPU.

    Raises:
        ConfigError: `device` is "cuda" and torch sees no GPU.
        DeviceError: CUDA_VISIBLE_DEVICES names a GPU, and it cannot be used.
    """
    has_gpu = torch.cuda.is_available()
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if wanted != "cpu" and not has_gpu and given not in ("", "-1", "NoDevFiles"):
        raise DeviceError(
            f"device: CUDA_VISIBLE_DEVICES gives {given}, but {_why_no_gpu()}; "
            "set device to cpu (rml-optimize: --no-gpu) if that is meant"
        )
    if wanted == "cuda" and not has_gpu:
        raise ConfigError(f"device: 'cuda' is asked for, but {_why_no_gpu()}")
    if wanted == "cpu" or not has_gpu:
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    try:
        torch.empty(1, device=device)  # a card that is lost, or kept by one process, says so here
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise DeviceError(f"device: {device} cannot be used: {first_line(error)}") from None
    return device


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
        with contextlib.suppress(RuntimeError):  # of a GPU that failed; the run says so
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


def _why_no_gpu() -> str:
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (AssertionError, RuntimeError) as error:
        return f"torch sees no GPU here ({first_line(error)})"
    return "torch sees no GPU here"
