"""Pooling on channels-first tensors, padded as TensorFlow pads."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.networks.layers.pooling import GlobalPool, Pool
from trainer.networks.spec import Shape
from trainer.networks.torch_layers.base import TorchLayer
from trainer.networks.torch_layers.convolution import split_padding

MAX_POOL = {2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}


class TorchPool(TorchLayer):
    def __init__(self, spec: Pool, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        spec = self.spec
        padding, extra = split_padding(spec, tuple(x.shape[2:]))
        if spec.maximum:
            if extra is not None:
                x = F.pad(x, extra, value=-math.inf)
            return MAX_POOL[spec.rank](x, spec.kernel, spec.strides, padding)
        pool = AVERAGE_POOL[spec.rank]
        if extra is None:
            return pool(x, spec.kernel, spec.strides, padding, count_include_pad=False)
        # lopsided padding: divide by the share of real pixels under each window
        share = F.pad(torch.ones_like(x[:1, :1]), extra)
        total = pool(F.pad(x, extra), spec.kernel, spec.strides)
        return total / pool(share, spec.kernel, spec.strides)


class TorchGlobalPool(TorchLayer):
    def __init__(self, spec: GlobalPool, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        axes = tuple(range(2, x.ndim))
        if self.spec.maximum:
            return torch.amax(x, axes, keepdim=self.spec.keepdims)
        return torch.mean(x, axes, keepdim=self.spec.keepdims)
