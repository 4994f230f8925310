"""Draws classes over an image: tinted, with outlines."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.data.decoding import Array
from trainer.data.intensity import PERCENTILES

# BGR, for classes 1, 2, …: told apart by people with any colour vision (Okabe and Ito 2008).
COLOURS = (
    (0, 159, 230), (233, 180, 86), (115, 158, 0), (66, 228, 240), (178, 114, 0), (0, 94, 213),
    (167, 121, 204),
)  # fmt: skip
OPACITY = 0.35
DASH_PX = 4


def overlay(
    image_HW3: NDArray[np.uint8],
    classes_HW: NDArray[Any],
    *,
    opacity: float = OPACITY,
) -> NDArray[np.uint8]:
    """Tint each class but the background, with its outline in full colour."""
    result = image_HW3.copy()
    for class_id in np.unique(classes_HW[classes_HW != 0]):
        colour = COLOURS[(int(class_id) - 1) % len(COLOURS)]
        region = classes_HW == class_id
        tinted = image_HW3[region] * (1 - opacity) + np.array(colour) * opacity
        result[region] = tinted.astype(np.uint8)
        outlines, _ = cv2.findContours(
            region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(result, outlines, -1, colour, thickness=1)
    return result


def dashed_outlines(image_HW3: NDArray[np.uint8], classes_HW: NDArray[Any]) -> NDArray[np.uint8]:
    """Draw the outline of each class but the background in black and white dashes.

    They are seen on any image, and beside the outlines of `overlay`: for the masks.
    """
    result = image_HW3.copy()
    for class_id in np.unique(classes_HW[classes_HW != 0]):
        region = (classes_HW == class_id).astype(np.uint8)
        for line in cv2.findContours(region, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]:
            columns, rows = line.reshape(-1, 2).T
            is_white = np.arange(len(rows)) // DASH_PX % 2 == 0
            result[rows, columns] = np.where(is_white[:, np.newaxis], 255, 0)
    return result


def shown(image: Array) -> NDArray[np.uint8]:
    """Return an image with 8 bits, one of 16 with its own contrast: only to be looked at."""
    if image.dtype == np.uint8:
        return np.asarray(image, np.uint8)
    low, high = np.percentile(image, PERCENTILES)
    scaled = (np.clip(image, low, high) - low) * 255 / max(1.0, high - low)
    return np.asarray(scaled, dtype=np.uint8)
