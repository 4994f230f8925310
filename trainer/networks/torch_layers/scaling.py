"""Layers that scale and shift, on channels-first tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.networks.layers.scaling import LayerScale, Normalization, Rescaling, ScaledAdd
from trainer.networks.spec import Shape
from trainer.networks.torch_layers.base import TorchLayer

EPSILON = 1e-7  # Keras's backend.epsilon()


def per_channel(rank: int) -> tuple[int, ...]:
    """Return the shape that brings a vector of channels beside (N, C, …)."""
    return (-1, *(1,) * (rank - 1))


class TorchRescaling(TorchLayer):
    scale: Tensor
    offset: Tensor

    def __init__(self, spec: Rescaling, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        shape = per_channel(len(shapes[0]))
        # not persistent: settings, not weights
        for name, values in (("scale", spec.scale), ("offset", spec.offset)):
            self.register_buffer(name, torch.tensor(values).reshape(shape), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.offset


class TorchNormalization(TorchLayer):
    mean: Tensor
    variance: Tensor

    def __init__(self, spec: Normalization, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.shape = per_channel(len(shapes[0]))
        if spec.mean is not None and spec.variance is not None:
            self.register_buffer("mean", torch.tensor(spec.mean), persistent=False)
            self.register_buffer("variance", torch.tensor(spec.variance), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.variance.sqrt().clamp(min=EPSILON)
        return (x - self.mean.reshape(self.shape)) / scale.reshape(self.shape)


class TorchLayerScale(TorchLayer):
    def __init__(self, spec: LayerScale, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.shape = per_channel(len(shapes[0]))

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        return x * weight.reshape(self.shape)


class TorchScaledAdd(TorchLayer):
    def __init__(self, spec: ScaledAdd, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.scale = spec.scale

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return x + residual * self.scale
