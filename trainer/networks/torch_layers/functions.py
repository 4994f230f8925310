"""Activation functions on channels-first tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.networks.spec import Function

TensorFunction = Callable[[Tensor], Tensor]


def make_function(function: Function) -> TensorFunction | None:
    """Return the function on tensors, None for linear."""
    if function.name == "linear":
        return None
    return FUNCTIONS[function.name](*function.values)


def _general_relu(slope: float, threshold: float, top: float | None = None) -> TensorFunction:
    """Keras's ReLU: top where x >= top, x where x > threshold, else slope (x − threshold)."""

    def apply(x: Tensor) -> Tensor:
        result = torch.where(x > threshold, x, slope * (x - threshold))
        return result if top is None else torch.clamp(result, max=top)

    return apply


def _leaky_relu(slope: float) -> TensorFunction:
    return lambda x: F.leaky_relu(x, slope)


def _elu(alpha: float) -> TensorFunction:
    return lambda x: F.elu(x, alpha)


def _clipped_relu(top: float) -> TensorFunction:
    return lambda x: torch.clamp(x, 0.0, top)


# each entry takes the function's numbers and returns the function
FUNCTIONS: dict[str, Callable[..., TensorFunction]] = {
    "relu": lambda: F.relu,
    "relu6": lambda: F.relu6,
    "leaky_relu": _leaky_relu,
    "general_relu": _general_relu,
    "clipped_relu": _clipped_relu,
    "elu": _elu,
    "selu": lambda: F.selu,
    "gelu": lambda: F.gelu,
    "silu": lambda: F.silu,
    "mish": lambda: F.mish,
    "softplus": lambda: F.softplus,
    "softsign": lambda: F.softsign,
    "exponential": lambda: torch.exp,
    "tanh": lambda: torch.tanh,
    "sigmoid": lambda: torch.sigmoid,
    "hard_sigmoid": lambda: F.hardsigmoid,
    "hard_sigmoid_keras2": lambda: lambda x: torch.clamp(0.2 * x + 0.5, 0.0, 1.0),
    "hard_silu": lambda: F.hardswish,
    "softmax": lambda: lambda x: torch.softmax(x, dim=1),
    "log_softmax": lambda: lambda x: F.log_softmax(x, dim=1),
}
