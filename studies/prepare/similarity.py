"""Finds images that show the same thing: a perceptual hash proposes, a thumbnail confirms.

The hash alone calls many slices of different brains alike, the thumbnail alone is slow for all
pairs. Both thresholds were set on breast-ultrasound images, where the pairs so found (crops and
re-saved copies) look the same, and on brain MRI, where no two patients are so found.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

THUMBNAIL_PX = 32
MAX_HAMMING = 8  # of 64 bits
MIN_CORRELATION = 0.97
ROWS_AT_A_TIME = 1024

Thumbnail = NDArray[np.uint8]


def thumbnail(gray_HW: NDArray[np.uint8]) -> Thumbnail:
    """Return the 32 x 32 average of a gray image."""
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    return np.asarray(cv2.resize(gray_HW, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def perceptual_hash(small: Thumbnail) -> NDArray[np.bool_]:
    """Return 64 bits: the low frequencies of the cosine transform above their median.

    The usual "pHash" (Zauner 2010, "Implementation and benchmarking of perceptual image hash
    functions"), with the mean left out of the median.
    """
    low = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    bits: NDArray[np.bool_] = low > np.median(low[1:])
    return bits


def similar_pairs(thumbnails: Sequence[Thumbnail]) -> list[tuple[int, int]]:
    """Return the index pairs (i < j) of images that are nearly the same.

    Flat images have no features to compare and are never like another.
    """
    if len(thumbnails) < 2:
        return []
    signs = np.stack([perceptual_hash(small) for small in thumbnails]) * 2.0 - 1.0
    signs = signs.astype(np.float32)
    pixels = np.stack([small.ravel() for small in thumbnails]).astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(pixels, axis=1, keepdims=True)
    pixels /= np.maximum(norms, 1e-6)
    min_product = signs.shape[1] - 2 * MAX_HAMMING  # of ±1: equal bits minus unequal ones
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(signs), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        first, second = np.nonzero(signs[rows] @ signs.T >= min_product)
        first += start
        first, second = first[first < second], second[first < second]
        alike = np.einsum("ij,ij->i", pixels[first], pixels[second]) >= MIN_CORRELATION
        pairs += zip(first[alike].tolist(), second[alike].tolist(), strict=True)
    return pairs
