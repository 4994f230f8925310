"""What every torch layer shares: parameters made from the layer's weights, and their start."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from trainer.networks.spec import Initializer, LayerSpec, Shape, Weight

# standard deviation of a normal distribution cut at ±2: Keras divides by it
_TRUNCATED_STD = 0.87962566103423978


class TorchLayer(nn.Module):
    """Holds a layer's parameters; trainable ones as parameters, the others as buffers.

    Only what Keras calls trainable by nature becomes a parameter; a frozen layer's parameters
    stay parameters, without a gradient.
    """

    weight: Any  # a tensor, or None in a layer without
    bias: Any

    def __init__(self, spec: LayerSpec, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__()
        for weight in spec.weights(*shapes):
            tensor = initial_value(weight)
            if weight.trainable:
                parameter = nn.Parameter(tensor, requires_grad=trainable)
                self.register_parameter(weight.torch_name, parameter)
            else:
                self.register_buffer(weight.torch_name, tensor)
        for name in ("weight", "bias"):
            if not hasattr(self, name):
                self.register_parameter(name, None)


def initial_value(weight: Weight) -> Tensor:
    """Draw a weight's first value from torch's global generator, in torch's layout."""
    init = weight.init
    if init.kind in ("orthogonal", "identity"):
        value = _matrix(init, weight.shape)
        value = value.permute(weight.axes) if weight.axes else value
        return value.reshape(weight.torch_shape).contiguous()
    value = torch.empty(weight.torch_shape)
    with torch.no_grad():
        _fill(value, init, weight.shape)
    return value


def _fill(value: Tensor, init: Initializer, keras_shape: Shape) -> None:
    kind = init.kind
    if kind == "constant":
        value.fill_(init.a)
    elif kind == "normal":
        value.normal_(init.a, max(init.b, 0.0))
    elif kind == "uniform":
        value.uniform_(init.a, init.b)
    elif kind == "truncated":
        nn.init.trunc_normal_(value, init.a, init.b, init.a - 2 * init.b, init.a + 2 * init.b)
    else:
        variance = init.a / max(1.0, _fan(init.mode, keras_shape))
        if kind == "scaled_uniform":
            limit = math.sqrt(3 * variance)
            value.uniform_(-limit, limit)
        elif kind == "scaled_normal":
            value.normal_(0.0, math.sqrt(variance))
        else:
            std = math.sqrt(variance) / _TRUNCATED_STD
            nn.init.trunc_normal_(value, 0.0, std, -2 * std, 2 * std)


def _fan(mode: str, shape: Shape) -> float:
    """Count a kernel's fans on its Keras shape, as Keras does."""
    if len(shape) < 2:
        fan_in = fan_out = float(shape[0]) if shape else 1.0
    else:
        receptive = math.prod(shape[:-2])
        fan_in, fan_out = float(receptive * shape[-2]), float(receptive * shape[-1])
    return {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]


def _matrix(init: Initializer, shape: Shape) -> Tensor:
    """Return an orthogonal or identity matrix, a kernel's leading axes flattened."""
    rows, columns = math.prod(shape[:-1]), shape[-1] if shape else 1
    if init.kind == "identity":
        return (init.a * torch.eye(rows, columns)).reshape(shape)
    return nn.init.orthogonal_(torch.empty(rows, columns), gain=init.a).reshape(shape)
