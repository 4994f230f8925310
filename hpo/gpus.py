"""Finds the GPUs that this process may use, through NVML, so without loading torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU, or one MIG instance of a partitioned one."""

    uuid: str
    name: str
    memory_bytes: int


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
    if selection is None:
        return tuple(gpu for card in cards for gpu in card)
    return _select(cards, selection)


def _instances(nvml: Any, index: int) -> Iterator[Gpu]:
    """Yield a card, or its MIG instances, because CUDA can't use the card itself then."""
    card = nvml.nvmlDeviceGetHandleByIndex(index)
    try:
        is_partitioned = nvml.nvmlDeviceGetMigMode(card)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:  # most models know no MIG
        is_partitioned = False
    if not is_partitioned:
        yield _describe(nvml, card)
        return
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, place)
        except nvml.NVMLError:  # the place is empty
            continue
        yield _describe(nvml, instance)


def _describe(nvml: Any, handle: Any) -> Gpu:
    return Gpu(
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value  # old bindings return bytes


def _select(cards: Sequence[Sequence[Gpu]], selection: str) -> tuple[Gpu, ...]:
    """Read the variable as CUDA does: up to the first entry that names no GPU.

    Indices count the cards in NVML's (PCI bus) order, which is what schedulers mean by them;
    UUIDs may be shortened as long as one GPU alone begins so.
    """
    chosen: list[Gpu] = []
    for entry in (word.strip() for word in selection.split(",")):
        if entry.isdecimal():
            named = list(cards[int(entry)]) if int(entry) < len(cards) else []
        else:
            every = [gpu for card in cards for gpu in card]
            named = [gpu for gpu in every if entry and gpu.uuid.startswith(entry)]
            if len(named) > 1:
                named = [gpu for gpu in named if gpu.uuid == entry]
        if not named:
            break
        chosen += [gpu for gpu in named if gpu not in chosen]
    return tuple(chosen)
