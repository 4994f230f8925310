"""Adagrad as a step that a CUDA graph may repeat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.optimizers.foreach import ForeachOptimizer


class Adagrad(ForeachOptimizer):
    """Adaptive subgradients (Duchi et al. 2011), the numbers and the state of torch's Adagrad.

    torch's reads the count of steps back for each parameter, to compute the rate on the host.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float = 0.0,
        lr_decay: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "lr_decay": lr_decay,
            "eps": eps,
            "capturable": True,
        }
        super().__init__(params, defaults)

    def _step_group(
        self, group: dict[str, Any], weights: list[Tensor], grads: list[Tensor]
    ) -> None:
        step = self._count(weights)
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, weights, alpha=group["weight_decay"]))
        sums = self._states(weights, "sum")
        torch._foreach_addcmul_(sums, grads, grads)
        rate = group["lr"] / (1 + (step - 1) * group["lr_decay"])
        steps = torch._foreach_mul(grads, rate.to(weights[0].dtype))
        roots = torch._foreach_sqrt(sums)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_addcdiv_(weights, steps, roots, value=-1)
