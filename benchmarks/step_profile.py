"""Says where the time of one of our training steps goes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import wait_for
from ours import Ours
from torch.autograd import DeviceType

NUM_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Profile:
    """Where the time of a step goes.

    Attributes:
        parts_ms: of an eager step; the host waits for the device at the end of each part.
        longest: share of the time of all, ms, number, name of an epoch's longest kernels, on a
            CPU of torch's operations.
        gpu_busy: the kernels' time over that of an epoch that nobody watches; None on a CPU.
    """

    parts_ms: dict[str, float]
    longest: list[tuple[float, float, int, str]]
    gpu_busy: float | None


class Timers:
    """Adds up the seconds spent inside functions."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: object, **kwargs: object) -> Any:
            wait_for(self._device)
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                wait_for(self._device)
                spent = time.perf_counter() - started
                self.seconds[name] = self.seconds.get(name, 0.0) + spent

        return timed


def profile_step(ours: Ours, epoch_s: float) -> Profile:
    """Train for two more epochs, watched.

    Args:
        ours: what has trained before.
        epoch_s: seconds of an epoch that nobody watches.
    """
    parts_ms = _parts(ours)
    with torch.profiler.profile() as profile:
        ours.trainer.run_epoch(3)
        wait_for(ours.trainer.device)
    events: list[Any] = list(profile.key_averages())
    on_gpu = ours.trainer.device.type == "cuda"
    if on_gpu:  # the operators' own entries count the same kernels once more
        events = [
            event
            for event in events
            if event.device_type == DeviceType.CUDA and not event.is_user_annotation
        ]

    def spent(event: Any) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)

    events.sort(key=spent, reverse=True)
    total_us = sum(map(spent, events))
    return Profile(
        parts_ms=parts_ms,
        longest=[
            (spent(event) / total_us, spent(event) / 1e3, event.count, event.key)
            for event in events[:NUM_SHOWN]
        ],
        gpu_busy=total_us / 1e6 / epoch_s if on_gpu else None,
    )


def _parts(ours: Ours) -> dict[str, float]:
    timers = Timers(ours.trainer.device)
    attempt_result: list[tuple[Any, str, str]] = [
        (ours.step.batches, "make", "data"),
        (ours.network, "logits", "forward"),
        (ours.step.optimizer, "step", "optimizer"),
    ]
    for owner, method, name in attempt_result:
        setattr(owner, method, timers.wrap(name, getattr(owner, method)))
    trainer = dataclasses.replace(ours.trainer, step=timers.wrap("step", ours.step))
    try:
        timers.wrap("epoch", trainer.run_epoch)(2)
    finally:
        for owner, method, _ in attempt_result:
            delattr(owner, method)
    seconds, num_steps = timers.seconds, len(trainer.batches)
    known = sum(seconds[name] for _, _, name in attempt_result)
    parts = {
        "data": seconds["data"],
        "forward": seconds["forward"],
        "loss, backward, norm": seconds["step"] - known,
        "optimizer": seconds["optimizer"],
        "between steps": seconds["epoch"] - seconds["step"],
    }
    return {name: spent / num_steps * 1e3 for name, spent in parts.items()}
