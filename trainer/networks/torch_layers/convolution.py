"""Convolutions and Dense on channels-first tensors, padded as TensorFlow pads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.networks.layers.convolution import (
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    SeparableConv,
    Window,
    same_padding,
)
from trainer.networks.spec import Shape
from trainer.networks.torch_layers.base import TorchLayer

CONV = {2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


def split_padding(window: Window, sizes: Shape) -> tuple[tuple[int, ...], list[int] | None]:
    """Return the padding that torch takes and, where it is lopsided, what F.pad adds first.

    With strides the padding depends on the input's size, hence not known before the call.
    """
    if not window.same:
        return window.pads or (0,) * window.rank, None
    pairs = [
        same_padding(size, kernel, stride, dilation)
        for size, kernel, stride, dilation in zip(
            sizes, window.kernel, window.strides, window.dilation, strict=True
        )
    ]
    if all(before == after for before, after in pairs):
        return tuple(before for before, _ in pairs), None
    # F.pad counts the axes from the last
    return (0,) * window.rank, [n for pair in reversed(pairs) for n in pair]


def convolve(
    window: Window, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int
) -> Tensor:
    padding, extra = split_padding(window, tuple(x.shape[2:]))
    if extra is not None:
        x = F.pad(x, extra)
    return CONV[window.rank](x, weight, bias, window.strides, padding, window.dilation, groups)


class TorchConv(TorchLayer):
    def __init__(self, spec: Conv, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.spec, x, self.weight, self.bias, self.spec.groups)


class TorchDepthwiseConv(TorchLayer):
    def __init__(self, spec: DepthwiseConv, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.spec, x, self.weight, self.bias, groups=x.shape[1])


class TorchSeparableConv(TorchLayer):
    depthwise_weight: Tensor
    pointwise_weight: Tensor

    def __init__(self, spec: SeparableConv, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        x = convolve(self.spec, x, self.depthwise_weight, None, groups=x.shape[1])
        return CONV[self.spec.rank](x, self.pointwise_weight, self.bias)


class TorchConvTranspose(TorchLayer):
    def __init__(self, spec: ConvTranspose, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        spec, sizes = self.spec, tuple(x.shape[2:])
        lengths = [spec.output_length(axis, size) for axis, size in enumerate(sizes)]
        before = [spec.crop_before(axis, size) for axis, size in enumerate(sizes)]
        # torch cuts as much behind as in front; output_padding gives back what is too much
        natural = [
            (size - 1) * s + (k - 1) * d + 1 - 2 * crop
            for size, s, k, d, crop in zip(
                sizes, spec.strides, spec.kernel, spec.dilation, before, strict=True
            )
        ]
        extra = [max(length - n, 0) for length, n in zip(lengths, natural, strict=True)]
        y = CONV_TRANSPOSE[spec.rank](
            x, self.weight, self.bias, spec.strides, before, extra, 1, spec.dilation
        )
        for axis, length in enumerate(lengths):
            if length < y.shape[axis + 2]:
                y = y.narrow(axis + 2, 0, length)
        return y


class TorchDense(TorchLayer):
    def __init__(self, spec: Dense, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return F.linear(x, self.weight, self.bias)
        y = F.linear(torch.movedim(x, 1, -1), self.weight, self.bias)
        return torch.movedim(y, -1, 1)
