"""Normalizations on channels-first tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.layers.normalization import BatchNorm, GroupNorm, LayerNorm
from trainer.networks.spec import Shape
from trainer.networks.torch_layers.base import TorchLayer, initial_value


def _ones(spec: BatchNorm | GroupNorm, num_channels: int) -> Tensor | None:
    """Return the weight of a normalization that only shifts: torch's backward passes refuse a
    bias without a weight (CUDA's of batches, all of groups)."""
    return torch.ones(num_channels) if spec.center and not spec.scale else None


class TorchBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNormalization as Keras computes it: running variances without Bessel's correction.

    A subclass of torch's, so that its tools (synchronized statistics, weight-decay groups)
    know it for what it is. A frozen one stays in inference mode, as in Keras.
    """

    ones: Tensor | None

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
        self.register_buffer("ones", _ones(spec, self.num_features), persistent=False)
        self.count: int | None = None  # values a channel of the last batch
        self.is_corrected_later = False  # by `RunningVariances`
        if self.frozen:
            self.training = False

    def train(self, mode: bool = True) -> TorchBatchNorm:
        return super().train(mode and not self.frozen)

    def forward(self, input: Tensor) -> Tensor:
        x, mean, variance = input, self.running_mean, self.running_var
        assert mean is not None and variance is not None and self.momentum is not None
        weight = self.weight if self.ones is None else self.ones
        if not self.training:
            return F.batch_norm(x, mean, variance, weight, self.bias, False, 0.0, self.eps)
        count = self.count = x.numel() // x.shape[1]
        if count == 1:  # torch refuses it; Keras gives beta, and a variance of 0
            with torch.no_grad():
                mean.lerp_(x.detach().float().flatten(), self.momentum)
                variance.mul_(1.0 - self.momentum)
            return self._affine(x - x.detach())
        if self.is_corrected_later:
            return F.batch_norm(
                x, mean, variance, weight, self.bias, True, self.momentum, self.eps
            )
        # torch averages in the unbiased variance; scaling before and after undoes that. On a
        # copy: torch keeps what it was given for the backward pass.
        factor = count / (count - 1)
        scaled = variance * factor
        y = F.batch_norm(x, mean, scaled, weight, self.bias, True, self.momentum, self.eps)
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


class RunningVariances:
    """Takes Bessel's correction out of the running variances of many layers at once.

    torch averages in a batch's unbiased variance u, Keras the biased one, u (n - 1) / n. With v
    before and w = (1 - m) v + m u after torch's step, Keras's is w - (w - (1 - m) v) / n. That
    takes four kernels for all layers, instead of three for each.

    Args:
        layers: each computes once a pass.
    """

    def __init__(self, layers: Iterable[TorchBatchNorm]) -> None:
        self._layers = [layer for layer in layers if not layer.frozen]

    @contextlib.contextmanager
    def corrected(self) -> Iterator[None]:
        """Correct them behind a forward and backward pass; torch keeps them for the latter."""
        if not self._layers:
            yield
            return
        variances = [layer.running_var for layer in self._layers if layer.running_var is not None]
        with torch.no_grad():
            kept = torch._foreach_mul(variances, [1.0 - (x.momentum or 0.0) for x in self._layers])
        try:
            for layer in self._layers:
                layer.is_corrected_later = True
            yield
        finally:
            for layer in self._layers:
                layer.is_corrected_later = False
        shares = [1 / layer.count for layer in self._layers if layer.count]
        with torch.no_grad():
            torch._foreach_mul_(variances, [1 - share for share in shares])
            torch._foreach_mul_(kept, shares)
            torch._foreach_add_(variances, kept)


class RunningStatistics:
    """Brings back what a failed pass has counted a batch in: running means and variances, and
    whatever else the layers of a plug-in's network keep in buffers."""

    def __init__(self, network: nn.Module) -> None:
        live = [values for layer in network.modules() for values in _counted_in(layer)]
        # By type: torch copies at once only what is of one.
        groups = [[v for v in live if v.dtype == dtype] for dtype in {v.dtype for v in live}]
        # Cloned once: memory may be short later.
        self._groups = [(group, [values.clone() for values in group]) for group in groups]

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them as they are."""
        for live, kept in self._groups:
            torch._foreach_copy_(kept, live)

    @torch.no_grad()
    def bring_back(self) -> None:
        """Make them what they were when they were kept."""
        for live, kept in self._groups:
            torch._foreach_copy_(live, kept)


def _counted_in(layer: nn.Module) -> list[Tensor]:
    if not isinstance(layer, TorchBatchNorm):
        return [*layer.buffers(recurse=False)]
    pair = () if layer.frozen else (layer.running_mean, layer.running_var)
    return [values for values in pair if values is not None]


class TorchGroupNorm(TorchLayer):
    """Group and instance normalization, gamma and beta per channel."""

    ones: Tensor | None

    def __init__(self, spec: GroupNorm, shapes: tuple[Shape, ...], trainable: bool) -> None:
        super().__init__(spec, shapes, trainable)
        self.groups = spec.groups if spec.groups > 0 else shapes[0][-1]
        self.epsilon = spec.epsilon
        self.register_buffer("ones", _ones(spec, shapes[0][-1]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.ones is None else self.ones
        return F.group_norm(x, self.groups, weight, self.bias, self.epsilon)


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
