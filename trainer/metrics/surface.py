"""Measures how far apart the outlines of two masks are."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=np.uint8)


def hd95_px(predicted_HW: Mask, target_HW: Mask) -> float:
    """Return the 95 % Hausdorff distance in pixels; NaN where one or both masks are empty.

    The 95th percentile of the distances from each outline to the other, and the larger of the
    two directions, as in MONAI. Not the Hausdorff distance itself, which one stray pixel sets.
    """
    if not predicted_HW.any() or not target_HW.any():
        return math.nan
    predicted, target = _outline(predicted_HW), _outline(target_HW)
    return max(_directed(predicted, target), _directed(target, predicted))


def _outline(mask_HW: Mask) -> npt.NDArray[np.uint8]:
    """Return the pixels of a mask with a side on its outside; beyond the image is outside."""
    mask = mask_HW.astype(np.uint8)
    inner = cv2.erode(mask, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    outline: npt.NDArray[np.uint8] = mask - np.asarray(inner, dtype=np.uint8)
    return outline


def _directed(from_HW: npt.NDArray[np.uint8], to_HW: npt.NDArray[np.uint8]) -> float:
    # Distance to the nearest 0; PRECISE is Euclidean, where the default approximates.
    distance: Any = cv2.distanceTransform(1 - to_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float(np.percentile(distance[from_HW > 0], 95))
