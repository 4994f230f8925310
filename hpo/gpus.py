"""Finds the GPUs that this process may use, through NVML, so without loading torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.errors import UsageError

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU, or one MIG instance of a partitioned one.

    `num_processes` counts the programs that compute on it, as far as the driver says.
    """

    uuid: str
    name: str
    memory_bytes: int
    card: int
    num_processes: int


def visible_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs in NVML's order, or those that CUDA_VISIBLE_DEVICES names, in its order.

    Empty without a driver, without NVML, or on any error of it: then there is no GPU to use.
    """
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        cards = [list(_instances(pynvml, index)) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()
    selection = os.environ.get(VISIBLE_DEVICES)
    gpus = tuple(gpu for card in cards for gpu in card)
    if selection is None:
        return gpus
    return tuple(_unique(_named(gpus, selection, is_strict=False)))


def select_gpus(gpus: Sequence[Gpu], selection: str) -> tuple[Gpu, ...]:
    """Return the GPUs that a user names among the visible ones, in his order.

    Raises:
        UsageError: a name that means no visible GPU, or several.
    """
    return tuple(_unique(_named(gpus, selection, is_strict=True)))


def _instances(nvml: Any, index: int) -> Iterator[Gpu]:
    """Yield a card, or its MIG instances, because CUDA can't use the card itself then."""
    card = nvml.nvmlDeviceGetHandleByIndex(index)
    try:
        is_partitioned = nvml.nvmlDeviceGetMigMode(card)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:  # most models know no MIG
        is_partitioned = False
    if not is_partitioned:
        yield _describe(nvml, card, index)
        return
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, place)
        except nvml.NVMLError:  # the place is empty
            continue
        yield _describe(nvml, instance, index)


def _describe(nvml: Any, handle: Any, card: int) -> Gpu:
    try:
        num_processes = len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    except nvml.NVMLError:  # not said to everybody, nor by every model
        num_processes = 0
    return Gpu(
        card=card,
        num_processes=num_processes,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value  # old bindings return bytes


def _named(gpus: Sequence[Gpu], selection: str, *, is_strict: bool) -> Iterator[Gpu]:
    """Read a list of GPUs as CUDA does: up to the first entry that names none, if not strict.

    Indices count the cards in NVML's (PCI bus) order, which is what schedulers mean by them;
    UUIDs may be shortened as long as one GPU alone begins so.
    """
    for entry in (word.strip() for word in selection.split(",")):
        if entry.isdecimal():
            named = [gpu for gpu in gpus if gpu.card == int(entry)]
        else:
            named = [gpu for gpu in gpus if entry and gpu.uuid.startswith(entry)]
            if len(named) > 1:
                named = [gpu for gpu in named if gpu.uuid == entry]
        if not named and is_strict:
            known = ", ".join(f"{gpu.card} = {gpu.uuid}" for gpu in gpus)
            raise UsageError(f"--gpus: {entry!r} names no GPU here, or several; there are {known}")
        if not named:
            return
        yield from named


def _unique(gpus: Iterator[Gpu]) -> list[Gpu]:
    return list(dict.fromkeys(gpus))
