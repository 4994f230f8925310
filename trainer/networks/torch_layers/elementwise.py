"""Layers that work pixel by pixel, on channels-first tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.networks.layers.elementwise import Dropout, PReLU, Softmax
from trainer.networks.spec import Shape
from trainer.networks.torch_layers.base import TorchLayer
from trainer.networks.torch_layers.geometry import torch_dim


class TorchIdentity(TorchLayer):
    def forward(self, x: Tensor) -> Tensor:
        return x


class TorchSoftmax(TorchLayer):
    """Softmax over an axis; over the channels the module applies it as an activation."""

    def __init__(self, spec: Softmax, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.dim = None if spec.activation.name == "softmax" else torch_dim(spec.axis, shapes[0])

    def forward(self, x: Tensor) -> Tensor:
        return x if self.dim is None else torch.softmax(x, self.dim)


class TorchPReLU(TorchLayer):
    def __init__(self, spec: PReLU, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        return F.relu(x) - weight * F.relu(-x)


class TorchDropout(TorchLayer):
    def __init__(self, spec: Dropout, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.rate = spec.rate
        self.whole_channels = spec.whole_channels
        self.noise_shape = spec.noise_shape
        if spec.whole_images:
            self.noise_shape = (None, *(1,) * len(shapes[0]))

    def forward(self, x: Tensor) -> Tensor:
        if self.noise_shape is None and not self.whole_channels:
            return F.dropout(x, self.rate, self.training)
        if not self.training or self.rate == 0.0:
            return x
        shape = [x.shape[0], x.shape[1], *(1,) * (x.ndim - 2)]
        if self.noise_shape is not None:
            noise = (self.noise_shape[0], self.noise_shape[-1], *self.noise_shape[1:-1])
            shape = [n if m is None else 1 for n, m in zip(x.shape, noise, strict=True)]
        mask = F.dropout(torch.ones(shape, dtype=x.dtype, device=x.device), self.rate)
        return x * mask
