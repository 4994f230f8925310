"""Layers that move pixels, on channels-first tensors; orders of axes are Keras's."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.networks.layers.geometry import (
    Flatten,
    Padding,
    Permute,
    Reshape,
    Resizing,
    UpSampling,
)
from trainer.networks.layers.merging import Arithmetic, Concatenate, Merge
from trainer.networks.layers.normalization import axis_index
from trainer.networks.spec import Shape
from trainer.networks.torch_layers.base import TorchLayer

OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}


def torch_dim(axis: int, shape: Shape) -> int:
    """Translate Keras's axis (batch first, channels last) into a channels-first tensor's."""
    index = axis_index(axis, shape)
    return 1 if index == len(shape) - 1 else index + 2


def to_channels_last(x: Tensor) -> Tensor:
    return torch.movedim(x, 1, -1) if x.ndim > 2 else x


def to_channels_first(x: Tensor) -> Tensor:
    return torch.movedim(x, -1, 1) if x.ndim > 2 else x


class TorchUpSampling(TorchLayer):
    def __init__(self, spec: UpSampling, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.factors = spec.factors
        self.interpolation = spec.interpolation

    def forward(self, x: Tensor) -> Tensor:
        size = [n * factor for n, factor in zip(x.shape[2:], self.factors, strict=True)]
        if self.interpolation == "nearest":
            return F.interpolate(x, size=size, mode="nearest")
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class TorchResizing(TorchLayer):
    def __init__(self, spec: Resizing, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.size = [spec.height, spec.width]
        self.interpolation = spec.interpolation
        self.antialias = spec.antialias

    def forward(self, x: Tensor) -> Tensor:
        if self.interpolation == "nearest":  # of half-pixel centres, as TensorFlow's
            return F.interpolate(x, size=self.size, mode="nearest-exact")
        if not self.antialias:
            return F.interpolate(x, size=self.size, mode="bilinear", align_corners=False)
        # not every device averages in bfloat16
        y = F.interpolate(
            x.float(), size=self.size, mode="bilinear", align_corners=False, antialias=True
        )
        return y.to(x.dtype)


class TorchPadding(TorchLayer):
    def __init__(self, spec: Padding, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        # F.pad counts the axes from the last, and crops where a margin is negative
        self.margins = [n for margin in reversed(spec.margins) for n in margin]

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.margins)


class TorchFlatten(TorchLayer):
    def __init__(self, spec: Flatten, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)

    def forward(self, x: Tensor) -> Tensor:
        return to_channels_last(x).flatten(1)


class TorchReshape(TorchLayer):
    def __init__(self, spec: Reshape, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.target = spec.target

    def forward(self, x: Tensor) -> Tensor:
        y = to_channels_last(x).reshape(x.shape[0], *self.target)
        return to_channels_first(y)


class TorchPermute(TorchLayer):
    def __init__(self, spec: Permute, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.dims = spec.dims

    def forward(self, x: Tensor) -> Tensor:
        return to_channels_first(to_channels_last(x).permute(0, *self.dims))


class TorchMerge(TorchLayer):
    def __init__(self, spec: Merge, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.average = spec.kind == "average"
        self.operation = OPERATIONS["add" if self.average else spec.kind]
        self.missing_axes = [max(map(len, shapes)) - len(shape) for shape in shapes]

    def forward(self, *inputs: Tensor) -> Tensor:
        tensors = [
            x.reshape(*x.shape[:2], *(1,) * missing, *x.shape[2:]) if missing else x
            for x, missing in zip(inputs, self.missing_axes, strict=True)
        ]
        result = tensors[0]
        for x in tensors[1:]:
            result = self.operation(result, x)
        return result / len(tensors) if self.average else result


class TorchArithmetic(TorchLayer):
    def __init__(self, spec: Arithmetic, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.operation = OPERATIONS[spec.operation]
        self.left, self.right = spec.left, spec.right

    def forward(self, x: Tensor) -> Tensor:
        left = x if self.left is None else self.left
        right = x if self.right is None else self.right
        result: Tensor = self.operation(left, right)
        return result


class TorchConcatenate(TorchLayer):
    def __init__(self, spec: Concatenate, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.dim = torch_dim(spec.axis, shapes[0])

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, self.dim)
