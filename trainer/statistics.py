"""Gives BatchNormalization the statistics of the weights as they are ("precise BN")."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer.networks.module import KerasModule
from trainer.stopping import stop_if_requested


@dataclass
class _Moments:
    """Sums over samples of the batches' means, and of their means of squares, by channel."""

    num_samples: int = 0
    mean_C: Tensor = field(default_factory=lambda: torch.zeros(()))
    square_C: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].detach().double().transpose(0, 1).flatten(1)
        num_samples = len(inputs[0])
        self.num_samples += num_samples
        self.mean_C = self.mean_C.to(x) + num_samples * x.mean(1)
        self.square_C = self.square_C.to(x) + num_samples * x.square().mean(1)

    def write(self, layer: _BatchNorm) -> None:
        mean = self.mean_C / self.num_samples
        assert layer.running_mean is not None and layer.running_var is not None
        layer.running_mean.copy_(mean)
        layer.running_var.copy_((self.square_C / self.num_samples - mean.square()).clamp_min(0))


def recompute_statistics(network: KerasModule, batches_NCHW: Iterable[Tensor]) -> None:
    """Replace the running averages by the mean and variance over these inputs.

    A running average is of weights that have changed since, and of few batches: what evaluation
    sees with it is not what was trained. Each batch is normalized by its own statistics, as in
    training; the weights stay as they are, and dropout is off. Wu and Johnson 2021, "Rethinking
    'Batch' in BatchNorm", section 3.2, arXiv 2105.07576. Frozen layers keep theirs.
    """
    network.eval()
    layers = [m.train() for m in network.modules() if isinstance(m, _BatchNorm)]
    moments = {layer: _Moments() for layer in layers if layer.training}
    hooks = [layer.register_forward_pre_hook(sums.add) for layer, sums in moments.items()]
    try:
        with torch.no_grad():
            for inputs_NCHW in batches_NCHW:
                stop_if_requested()
                network.logits(inputs_NCHW)
    finally:
        for hook in hooks:
            hook.remove()
    for layer, sums in moments.items():
        if sums.num_samples:
            sums.write(layer)
