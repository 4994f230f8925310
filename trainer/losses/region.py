"""Losses of whole regions: Dice, Jaccard and Lovasz."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.losses.common import (
    Batch,
    class_ids,
    probabilities,
    weighted_mean,
)
from trainer.networks.spec import Activation


def dice(batch: Batch, activation: Activation, eps: float) -> Tensor:
    """Return 1 - mean over classes of (2 sum(p t) + eps) / (sum p + sum t + eps).

    Sums run over the batch and its pixels (V-Net, arXiv 1606.04797, without the squares).
    """
    both, predicted, target = _sums(batch, activation)
    return _mean_over_classes(1 - (2 * both + eps) / (predicted + target + eps), batch)


def jaccard(batch: Batch, activation: Activation, eps: float) -> Tensor:
    """Return 1 - mean over classes of (sum(p t) + eps) / (sum p + sum t - sum(p t) + eps)."""
    both, predicted, target = _sums(batch, activation)
    return _mean_over_classes(1 - (both + eps) / (predicted + target - both + eps), batch)


def _sums(batch: Batch, activation: Activation) -> tuple[Tensor, Tensor, Tensor]:
    """Return sum(p t), sum p and sum t over batch and pixels, each of shape (C,)."""
    p, t = probabilities(batch.logits_NCS, activation), batch.target_NCS
    if batch.valid_N1S is not None:
        p, t = p * batch.valid_N1S, t * batch.valid_N1S
    dims = (0, *range(2, p.ndim))
    return (p * t).sum(dims), p.sum(dims), t.sum(dims)


def _mean_over_classes(values_C: Tensor, batch: Batch) -> Tensor:
    """Average over classes by their weights; one channel has one class, so no weight counts."""
    return weighted_mean(values_C, None if values_C.numel() == 1 else batch.class_weight_C)


def lovasz(batch: Batch, activation: Activation) -> Tensor:
    """Return the Lovasz extension of the Jaccard loss (Berman et al. 2018, arXiv 1705.08790).

    Sigmoid: the hinge of each image and channel, then their mean. Softmax: errors |t - p| over
    the whole batch, and the mean over the classes that occur in it. Both as the authors' code.
    """
    class_ids(batch)  # a ranking against a continuous target means nothing
    logits, target = batch.logits_NCS, batch.target_NCS
    valid = None if batch.valid_N1S is None else batch.valid_N1S.expand_as(target) > 0
    if activation == "sigmoid":
        errors = 1 - logits * (2 * target - 1)
        values_NC = _lovasz_rows(
            errors.flatten(2), target.flatten(2), None if valid is None else valid.flatten(2)
        )
        return _mean_over_classes(values_NC.mean(0), batch)
    errors = (target - probabilities(logits, activation)).abs()
    target_CP = _rows_per_class(target)
    valid_CP = None if valid is None else _rows_per_class(valid)
    values_C = _lovasz_rows(_rows_per_class(errors), target_CP, valid_CP)
    if valid_CP is not None:
        target_CP = target_CP * valid_CP
    weight_C = target_CP.amax(1)
    if batch.class_weight_C is not None:
        weight_C = weight_C * batch.class_weight_C
    return weighted_mean(values_C, weight_C)


def _rows_per_class(values_NCS: Tensor) -> Tensor:
    """Return shape (C, all pixels of the batch)."""
    return values_NCS.transpose(0, 1).flatten(1)


def _lovasz_rows(errors: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
    """Return the dot product of each row's errors and their Jaccard steps (algorithm 1).

    errors and target have shape (..., P), valid too (bool); the result has shape (...).
    Errors below 0 (possible for the hinge) count 0.
    """
    if valid is not None:
        # Last in the order, where they change no step of the pixels that count.
        errors = errors.masked_fill(~valid, -torch.inf)
        target = target * valid
    # The steps are constants between two swaps of the order, so they are put back in the order
    # of the pixels: no gradient has to pass through the sort.
    order = errors.detach().argsort(-1, descending=True)
    steps = _jaccard_steps(target.gather(-1, order))
    return (errors.relu() * torch.zeros_like(target).scatter_(-1, order, steps)).sum(-1)


def _jaccard_steps(hits: Tensor) -> Tensor:
    """Return by how much each pixel, in order, raises the Jaccard loss, shape (..., P).

    hits is 1 for the pixels in the target, else 0. Counts are integers: exact at any size, and a
    running sum of floats is not deterministic on a GPU.
    """
    found = hits.cumsum(-1, dtype=torch.int32)
    total = found[..., -1:]
    rank = torch.arange(1, hits.shape[-1] + 1, device=hits.device, dtype=torch.int32)
    left = (total - found).to(hits.dtype)  # intersection after this pixel
    union = (total - found + rank).to(hits.dtype)  # a miss adds a pixel to it
    # The difference of two Jaccards in closed form: subtracting them in float32 would leave
    # no digits from a million pixels on. A union that was empty before steps from 0 to 1.
    miss = torch.where(union == 1, 1.0, left / union / (union - 1).clamp_min(1))
    return torch.where(hits == 1, 1 / union, miss)
