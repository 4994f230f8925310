"""Runs a network up to its last activation, and applies that activation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trainer.networks.network_module import NetworkModule
from trainer.networks.spec import Activation


def activate(logits_NCHW: Tensor, activation: Activation) -> Tensor:
    """Return the network's output for its logits; log_softmax gives log-probabilities."""
    match activation:
        case "sigmoid":
            return logits_NCHW.sigmoid()
        case "softmax":
            return logits_NCHW.softmax(1)
        case "log_softmax":
            return logits_NCHW.log_softmax(1)
        case "linear":
            return logits_NCHW


def forward_logits(
    network: NetworkModule, inputs_NCHW: Tensor, size_HW: tuple[int, ...]
) -> Tensor:
    """Run the network up to its last activation, enlarged to the masks' size where coarser."""
    logits = network.logits(inputs_NCHW)
    # A classification has no places, so nothing to enlarge.
    if logits.ndim > 2 and tuple(logits.shape[2:]) != tuple(size_HW):
        mode = "bilinear" if logits.ndim == 4 else "trilinear"
        logits = F.interpolate(logits.float(), size=size_HW, mode=mode, align_corners=False)
    return logits
