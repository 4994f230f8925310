"""What our own optimizers share: a step over all tensors at once that a CUDA graph may repeat.

A captured step repeats its kernels with the arguments they had. So nothing that changes from step
to step may be a number of Python's: the learning rate and the count of steps are tensors on the
device, and nothing reads them back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer


class ForeachOptimizer(Optimizer):
    """Steps over all tensors of a group at once, and never waits for the GPU."""

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._step_group(group, weights, [p.grad for p in weights])
        return loss

    def _step_group(
        self, group: dict[str, Any], weights: list[Tensor], grads: list[Tensor]
    ) -> None:
        raise NotImplementedError

    def _states(self, weights: list[Tensor], name: str) -> list[Tensor]:
        """Return a buffer for each parameter, zero at first."""
        for weight in weights:
            if name not in self.state[weight]:
                self.state[weight][name] = torch.zeros_like(weight)
        return [self.state[weight][name] for weight in weights]

    def _count(self, weights: list[Tensor]) -> Tensor:
        """Add a step and return their number, float64 on the device.

        Each parameter has the count, as torch's optimizers keep it; it is one for all.
        """
        for weight in weights:
            if "step" not in self.state[weight]:
                self.state[weight]["step"] = torch.zeros((), device=weight.device)
        counts = [self.state[weight]["step"] for weight in weights]
        torch._foreach_add_(counts, 1)
        count: Tensor = counts[0].double()  # 1 - beta^step would lose its digits in float32
        return count
