"""Normalizations on channels-first tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.layers.normalization import BatchNorm, GroupNorm, LayerNorm
from trainer.networks.spec import Shape
from trainer.networks.torch_layers.base import TorchLayer, initial_value


class TorchBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNormalization as Keras computes it: running variances without Bessel's correction.

    A subclass of torch's, so that its tools (synchronized statistics, weight-decay groups)
    know it for what it is. A frozen one stays in inference mode, as in Keras.
    """

    def __init__(self, spec: BatchNorm, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(shapes[0][-1], spec.epsilon, 1.0 - spec.momentum, affine=False)
        self.affine = spec.scale and spec.center
        self.frozen = not trainable
        self.num_batches_tracked = None  # Keras keeps no such count
        for weight in spec.weights(*shapes):
            value = initial_value(weight)
            if weight.trainable:
                parameter = nn.Parameter(value, requires_grad=trainable)
                setattr(self, weight.torch_name, parameter)
            else:
                setattr(self, weight.torch_name, value)
        if self.frozen:
            self.training = False

    def train(self, mode: bool = True) -> TorchBatchNorm:
        return super().train(mode and not self.frozen)

    def forward(self, input: Tensor) -> Tensor:
        x, mean, variance = input, self.running_mean, self.running_var
        assert mean is not None and variance is not None and self.momentum is not None
        if not self.training:
            return F.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        count = x.numel() // x.shape[1]
        if count == 1:  # torch refuses it; Keras gives beta, and a variance of 0
            with torch.no_grad():
                mean.lerp_(x.detach().float().flatten(), self.momentum)
                variance.mul_(1.0 - self.momentum)
            return self._affine(x - x.detach())
        # torch averages in the unbiased variance; scaling before and after undoes that. On a
        # copy: torch keeps what it was given for the backward pass.
        factor = count / (count - 1)
        scaled = variance * factor
        y = F.batch_norm(x, mean, scaled, self.weight, self.bias, True, self.momentum, self.eps)
        variance.copy_(scaled / factor)
        return y

    def _affine(self, x: Tensor) -> Tensor:
        shape = (1, -1, *(1,) * (x.ndim - 2))
        if self.weight is not None:
            x = x * self.weight.reshape(shape)
        return x if self.bias is None else x + self.bias.reshape(shape)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], *args: object) -> None:
        # torch's version would put a missing num_batches_tracked back
        nn.Module._load_from_state_dict(self, state_dict, *args)


class TorchGroupNorm(TorchLayer):
    """Group and instance normalization, gamma and beta per channel."""

    def __init__(self, spec: GroupNorm, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.groups = spec.groups if spec.groups > 0 else shapes[0][-1]
        self.epsilon = spec.epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.groups, self.weight, self.bias, self.epsilon)


class TorchLayerNorm(TorchLayer):
    """Layer normalization over any axes; the moments in float32, as Keras computes them."""

    def __init__(self, spec: LayerNorm, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        last = len(shapes[0]) - 1
        indices = spec.indices(shapes[0])
        self.axes = tuple(1 if index == last else index + 2 for index in indices)
        self.epsilon = spec.epsilon

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = x.float()
        variance, mean = torch.var_mean(x, self.axes, correction=0, keepdim=True)
        x = (x - mean) * torch.rsqrt(variance + self.epsilon)
        if self.weight is not None:
            x = x * self.weight
        if self.bias is not None:
            x = x + self.bias
        return x.to(dtype)
