"""What training, evaluation and export ask of a network, whoever built it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.networks.torch_layers.normalization import RunningVariances

_NUM_AXES = {torch.channels_last: 4, torch.channels_last_3d: 5}  # of what has such a format


class NetworkModule(nn.Module):
    """A network on channels-first tensors that gives its logits."""

    def logits(self, x: Tensor) -> Tensor:
        """Return the output before the last sigmoid, softmax or log_softmax; x is (N, C, H, W)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output; x is (N, C, H, W)."""
        return self.logits(x)

    def place(self, device: torch.device, memory_format: torch.memory_format) -> None:
        """Move to the device, kernels in that format: torch's `to` would want a format of 5-D
        tensors of the 4-D ones as well, which a 3-D network may have for scales or slopes."""
        self.to(device)
        for values in (*self.parameters(), *self.buffers()):
            if values.ndim == _NUM_AXES.get(memory_format):
                values.data = values.data.contiguous(memory_format=memory_format)

    def running_variances(self) -> RunningVariances:
        """Return those that are corrected after each step."""
        return RunningVariances(())
