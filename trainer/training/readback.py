"""Brings what the steps computed to the host while the device goes on with the next ones."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

# Reading a tensor waits until the device has come to it, and then the device waits for the host.
# So figures gather there, and groups of them are read behind the steps. Two groups may be on their
# way, no more: the host must not run ahead of a request to stop by more than these steps.
STEPS_A_GROUP = 8
NUM_GROUPS = 3

Label = TypeVar("Label")


class _Event(Protocol):
    def record(self) -> None: ...
    def query(self) -> bool: ...
    def synchronize(self) -> None: ...


class _NoEvent:
    """What is asked of a CPU, where a copy is done when it returns."""

    def record(self) -> None: ...
    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...


@dataclass
class _Group(Generic[Label]):
    on_device: Tensor
    on_host: Tensor
    copied: _Event
    labels: list[Label] = field(default_factory=list)


class Readback(Generic[Label]):
    """Figures of steps, in order, as numbers; on a CPU each as soon as it is there.

    Args:
        device: where the steps are computed.
        num_figures: of each step.
        steps_a_group: how many are read at once; 1 on a CPU if not given.
    """

    def __init__(
        self, device: torch.device, num_figures: int, *, steps_a_group: int | None = None
    ) -> None:
        on_gpu = device.type == "cuda"
        shape = (steps_a_group or (STEPS_A_GROUP if on_gpu else 1), num_figures)
        self._spare: list[_Group[Label]] = [
            _Group(
                torch.empty(shape, device=device),
                torch.empty(shape, pin_memory=on_gpu),
                torch.cuda.Event() if on_gpu else _NoEvent(),  # type: ignore[no-untyped-call]
            )
            for _ in range(NUM_GROUPS)
        ]
        self._underway: deque[_Group[Label]] = deque()
        self._filling = self._spare.pop()

    def add(self, label: Label, figures: Tensor) -> None:
        """Take the figures of the next step, (num_figures,) on the device; then ask `arrived`."""
        group = self._filling
        group.on_device[len(group.labels)].copy_(figures)
        group.labels.append(label)
        if len(group.labels) == len(group.on_device):
            self._send()

    def arrived(self, *, all_of_them: bool = False) -> list[tuple[Label, list[float]]]:
        """Return what has arrived since the last call; waits only where too much is on its way.

        Args:
            all_of_them: wait for everything that was added.
        """
        if all_of_them and self._filling.labels:
            self._send()
        found: list[tuple[Label, list[float]]] = []
        while self._underway and (
            all_of_them or not self._spare or self._underway[0].copied.query()
        ):
            group = self._underway.popleft()
            group.copied.synchronize()
            found += zip(group.labels, group.on_host[: len(group.labels)].tolist(), strict=True)
            group.labels.clear()
            self._spare.append(group)
        return found

    def _send(self) -> None:
        group = self._filling
        group.on_host.copy_(group.on_device, non_blocking=True)
        group.copied.record()
        self._underway.append(group)
        self._filling = self._spare.pop()
