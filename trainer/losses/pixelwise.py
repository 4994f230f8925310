"""Losses that are a mean over pixels: NLL, BCE, MSE and Focal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.losses.common import (
    Batch,
    binary_logits,
    class_ids,
    element_weight,
    log_probabilities,
    pixel_weight,
    probabilities,
    weighted_mean,
)
from trainer.networks.spec import Activation


def nll(batch: Batch, activation: Activation) -> Tensor:
    """Return the mean of -log p of the pixel's class, weighted as `torch.nn.NLLLoss`.

    With one channel p is the foreground's probability, so that this is the binary cross entropy.
    With several channels after a sigmoid nothing lowers the other classes, because each p stands
    for itself: what the contract defines, but it trains badly, and BCE is what is meant there.
    """
    if batch.logits_NCS.shape[1] == 1:
        return bce(batch, activation)
    target = class_ids(batch)
    log_p = log_probabilities(batch.logits_NCS, activation)
    ids = target if batch.valid_N1S is None else target * (batch.valid_N1S.squeeze(1) != 0)
    # On rows, not planes: torch's 2-D form sums with atomics, in no fixed order, on a GPU. The
    # move is free where the network's memory is channels-last.
    rows = log_p.movedim(1, -1).flatten(0, -2)
    values = F.nll_loss(rows, ids.flatten(), reduction="none").view_as(target)
    return weighted_mean(values, pixel_weight(batch))


def bce(batch: Batch, activation: Activation) -> Tensor:
    """Return the mean over elements of -(t log p + (1 - t) log(1 - p))."""
    values = F.binary_cross_entropy_with_logits(
        binary_logits(batch.logits_NCS, activation), batch.target_NCS, reduction="none"
    )
    return weighted_mean(values, element_weight(batch))


def mse(batch: Batch, activation: Activation) -> Tensor:
    """Return the mean over elements of (p - t)^2; with `linear`, p is the output itself."""
    values = (probabilities(batch.logits_NCS, activation) - batch.target_NCS).square()
    return weighted_mean(values, element_weight(batch))


def focal(batch: Batch, activation: Activation, gamma: float) -> Tensor:
    """Return the mean of -(1 - p_t)^gamma log p_t (Lin et al. 2017, arXiv 1708.02002, eq. 4).

    There is no alpha unless the config gives class weights, which take its place: the contract
    names none, and the paper's 0.25 for the foreground suits detection, not rare lesions.
    Sigmoid: each channel is a binary problem, and the mean is over elements, as in BCE. Softmax:
    p_t is the probability of the pixel's class, and the mean is over pixels, as in NLL.
    """
    class_ids(batch)  # p_t exists for classes only
    logits, is_class = batch.logits_NCS, batch.target_NCS > 0
    # The margin is log(p_t / (1 - p_t)).
    if activation == "sigmoid":
        margin = torch.where(is_class, logits, -logits)
        weight = element_weight(batch)
    else:
        others = logits.masked_fill(is_class, -torch.inf).logsumexp(1)
        # The one-hot target picks the class; ignored pixels may have none, and weigh 0.
        margin = (logits * batch.target_NCS).sum(1) - others
        weight = pixel_weight(batch)
    # Both factors from the margin: 1 - p_t would round to 0, and its power has no slope there.
    values = -F.logsigmoid(margin) * (gamma * F.logsigmoid(-margin)).exp()
    return weighted_mean(values, weight)
