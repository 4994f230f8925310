"""LARS and LAMB: optimizers whose step is proportional to the norm of each layer's weights.

Written out here because the libraries at hand change the papers' updates: pytorch-optimizer's
LAMB clips the norm of the weights and adds eps to that of the update, and its LARS keeps the
learning rate out of the velocity and overwrites the gradients.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.optimizers.foreach import ForeachOptimizer


def _norms(tensors: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(tensors))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, but 1 where either is 0: a weight that starts at 0 must be able to leave it."""
    usable = (numerator > 0) & (denominator > 0)
    return torch.where(usable, numerator / denominator, 1.0)


class LARS(ForeachOptimizer):
    """Layer-wise adaptive rate scaling (You, Gitman and Ginsburg 2017, arXiv 1708.03888, alg. 1).

    With weights w, gradient g and decay b of a layer, its rate is eta |w| / (|g| + b |w|), and

        v = momentum v + lr rate (g + b w);  w = w - v

    The rate is in the velocity, as in the paper, so that a later rate does not rescale earlier
    steps. Every tensor is a layer, biases too; dampening and nesterov as in `torch.optim.SGD`.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        eta: float = 1e-3,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "eta": eta,
        }
        super().__init__(params, defaults)

    def _step_group(
        self, group: dict[str, Any], weights: list[Tensor], grads: list[Tensor]
    ) -> None:
        decay, momentum = group["weight_decay"], group["momentum"]
        weight_norms, grad_norms = _norms(weights), _norms(grads)
        rates = group["eta"] * weight_norms
        rates = _ratio(rates, grad_norms + decay * weight_norms) * group["lr"]
        steps = torch._foreach_add(grads, weights, alpha=decay)
        torch._foreach_mul_(steps, list(rates.unbind()))
        if momentum:
            # torch's SGD dampens from the second step on.
            is_first = not self.state[weights[0]]
            velocity = self._states(weights, "momentum_buffer")
            share = 1.0 if is_first else 1 - group["dampening"]
            torch._foreach_mul_(velocity, momentum)
            torch._foreach_add_(velocity, steps, alpha=share)
            if group["nesterov"]:
                torch._foreach_add_(steps, velocity, alpha=momentum)
            else:
                steps = tuple(velocity)
        torch._foreach_sub_(weights, steps)


class LAMB(ForeachOptimizer):
    """Layer-wise adaptive moments (You et al. 2020, arXiv 1904.00962, alg. 2, phi(z) = z).

    With Adam's bias-corrected r = m / (sqrt(v) + eps) and decay b,

        w = w - lr |w| / |r + b w| (r + b w)

    Every tensor is a layer, biases too; amsgrad as in `torch.optim.Adam`.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "capturable": True,  # the counts of steps stay on the device when a state is loaded
        }
        super().__init__(params, defaults)

    def _step_group(
        self, group: dict[str, Any], weights: list[Tensor], grads: list[Tensor]
    ) -> None:
        step = self._count(weights)
        beta1, beta2 = group["betas"]
        first, second = self._states(weights, "exp_avg"), self._states(weights, "exp_avg_sq")
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, value=1 - beta2)
        if group["amsgrad"]:
            largest = self._states(weights, "max_exp_avg_sq")
            torch._foreach_maximum_(largest, second)
            second = largest
        dtype = weights[0].dtype
        denominators = torch._foreach_mul(second, (1 / (1 - beta2**step)).to(dtype))
        torch._foreach_sqrt_(denominators)
        torch._foreach_add_(denominators, group["eps"])
        steps = torch._foreach_div(first, denominators)
        torch._foreach_mul_(steps, (1 / (1 - beta1**step)).to(dtype))
        torch._foreach_add_(steps, weights, alpha=group["weight_decay"])
        rates = _ratio(_norms(weights), _norms(list(steps))) * group["lr"]
        torch._foreach_mul_(steps, list(rates.unbind()))
        torch._foreach_sub_(weights, steps)
