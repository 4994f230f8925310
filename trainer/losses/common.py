"""What the losses share: targets, activations and weighted means, all without a GPU sync.

Shapes: logits (N, C, *spatial) and class ids (N, *spatial), with two or three spatial
dimensions; a suffix `_NCS` names the former.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.errors import ConfigError
from trainer.networks.spec import Activation

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """One batch as every loss sees it; all floats have the type of `logits_NCS`."""

    logits_NCS: Tensor
    target_NCS: Tensor
    class_ids_NS: Tensor | None
    valid_N1S: Tensor | None
    class_weight_C: Tensor | None


Term = Callable[[Batch], Tensor]


def make_batch(
    logits_NCS: Tensor,
    target: Tensor,
    ignore_index: int | None,
    class_weight_C: Tensor | None,
) -> Batch:
    """Turn class ids (N, *spatial) into one-hot channels, or take continuous targets as they are.

    Raises:
        ValueError: the target's shape does not belong to that of the logits.
    """
    shape = tuple(logits_NCS.shape)
    if target.is_floating_point():
        if tuple(target.shape) != shape:
            raise ValueError(f"expected a target of shape {shape}, received {tuple(target.shape)}")
        return Batch(logits_NCS, target.to(logits_NCS.dtype), None, None, class_weight_C)
    expected = (shape[0], *shape[2:])
    if tuple(target.shape) != expected:
        raise ValueError(f"expected class ids of shape {expected}, received {tuple(target.shape)}")
    num_channels = shape[1]
    first = 1 if num_channels == 1 else 0  # one channel is the foreground, class 1
    classes_C = torch.arange(first, first + num_channels, device=target.device)
    # A comparison, because F.one_hot waits for the GPU to check the range of the ids.
    one_hot = target.unsqueeze(1) == classes_C.view(-1, *[1] * (target.ndim - 1))
    valid = None
    if ignore_index is not None:
        valid = (target != ignore_index).unsqueeze(1).to(logits_NCS.dtype)
    return Batch(logits_NCS, one_hot.to(logits_NCS.dtype), target, valid, class_weight_C)


def probabilities(logits_NCS: Tensor, activation: Activation) -> Tensor:
    """Apply the activation; `log_softmax` gives probabilities too, `linear` the logits."""
    if activation == "linear":
        return logits_NCS
    return logits_NCS.sigmoid() if activation == "sigmoid" else logits_NCS.softmax(1)


def log_probabilities(logits_NCS: Tensor, activation: Activation) -> Tensor:
    """Return log p without forming p, which would round to 0 or 1."""
    return F.logsigmoid(logits_NCS) if activation == "sigmoid" else logits_NCS.log_softmax(1)


def binary_logits(logits_NCS: Tensor, activation: Activation) -> Tensor:
    """Return log(p / (1 - p)) of each channel's probability p.

    For softmax that is z_c - log(sum over j != c of exp z_j). Only for the largest p does
    1 - p lose its digits, so only there the sum is taken without z_c: O(C), not O(C^2).
    """
    if activation == "sigmoid":
        return logits_NCS
    if logits_NCS.shape[1] == 2:
        return logits_NCS - logits_NCS.flip(1)
    log_p = logits_NCS.log_softmax(1)
    largest = torch.zeros_like(logits_NCS, dtype=torch.bool)
    largest.scatter_(1, logits_NCS.detach().argmax(1, keepdim=True), True)
    log_sum = torch.logsumexp(logits_NCS, 1, keepdim=True)
    log_sum_rest = torch.logsumexp(logits_NCS.masked_fill(largest, -torch.inf), 1, keepdim=True)
    # Masked inside log1p as well: the gradient of the branch not taken must be finite.
    log_one_minus_p = torch.where(
        largest, log_sum_rest - log_sum, torch.log1p(-log_p.masked_fill(largest, -1.0).exp())
    )
    return log_p - log_one_minus_p


def element_weight(batch: Batch) -> Tensor | None:
    """Return what each element (n, c, s) of a per-channel loss counts, or None: all the same.

    Several channels: the weight of the channel's class. One channel: that of the pixel's class.
    """
    weight = batch.class_weight_C
    if weight is None:
        return batch.valid_N1S
    if batch.logits_NCS.shape[1] == 1:
        element = torch.lerp(weight[0], weight[1], batch.target_NCS)
    else:
        element = weight.view(1, -1, *[1] * (batch.logits_NCS.ndim - 2))
    return element if batch.valid_N1S is None else element * batch.valid_N1S


def pixel_weight(batch: Batch) -> Tensor | None:
    """Return what each pixel counts by its class, shape (N, *spatial), or None: all the same."""
    valid = None if batch.valid_N1S is None else batch.valid_N1S.squeeze(1)
    if batch.class_weight_C is None:
        return valid
    # An ignored id need not be a class at all, so it is clamped before the look-up.
    ids = class_ids(batch).clamp(0, batch.class_weight_C.numel() - 1)
    weight = batch.class_weight_C[ids]
    return weight if valid is None else weight * valid


def class_ids(batch: Batch) -> Tensor:
    """Return the ids of a batch whose loss is only defined for classes.

    Raises:
        ConfigError: the target is continuous.
    """
    if batch.class_ids_NS is None:
        raise ConfigError(
            "loss.function: NLL, Focal and Lovasz need masks of classes; for continuous targets "
            "use BCE, MSE, Dice or Jaccard"
        )
    return batch.class_ids_NS


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Return sum(w v) / sum(w); 0, with gradient 0, where every weight is 0."""
    if weight is None:
        return values.mean()
    weight = weight.expand_as(values)
    return (weight * values).sum() / weight.sum().clamp_min(torch.finfo(values.dtype).tiny)
