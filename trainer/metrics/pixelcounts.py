"""Counts each image's pixels by class where the predictions are, without waiting for them."""

from __future__ import annotations

import torch
from torch import Tensor


def count_pixels(
    predicted_NHW: Tensor, target_NHW: Tensor, num_classes: int, ignore_index: int | None
) -> tuple[Tensor, Tensor]:
    """Return what every score is made of.

    Args:
        predicted_NHW: class ids, (N,) of a classification.
        target_NHW: likewise.
        num_classes: K; every predicted id is below.
        ignore_index: class id of pixels that count nowhere.

    Returns:
        (N, K, 3): pixels of each class both predicted and in the target, predicted, in the target;
        (N,): pixels of the target whose id is neither a class nor ignored. Both int64.
    """
    num_images, k = predicted_NHW.shape[0], num_classes
    valid = (target_NHW >= 0) & (target_NHW < k)
    true = torch.where(valid, target_NHW, k + 1)
    if ignore_index is not None:
        true = true.masked_fill(target_NHW == ignore_index, k)
    cells = (true * k + predicted_NHW).view(num_images, -1)
    num_cells = (k + 2) * k  # true class (then ignored, then invalid) and predicted class
    # Row by row where a row's cells are few: on a GPU additions to one cell wait for each other.
    if predicted_NHW.ndim > 1 and num_cells <= predicted_NHW.shape[-1]:
        cells = cells.view(-1, predicted_NHW.shape[-1])
    # Not torch.bincount, which reads its largest value back.
    counts = torch.zeros(len(cells), num_cells, dtype=torch.int32, device=cells.device)
    ones = torch.ones((), dtype=torch.int32, device=cells.device).expand_as(cells)
    counts.scatter_add_(1, cells, ones)
    confusion_NTP = counts.view(num_images, -1, k + 2, k).sum(1)
    of_classes = confusion_NTP[:, :k]
    hits = of_classes.diagonal(dim1=1, dim2=2)
    return torch.stack((hits, of_classes.sum(1), of_classes.sum(2)), -1), confusion_NTP[:, -1].sum(
        -1
    )
