"""Goes over an image in bands of rows, where all at once would take several times its memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

BAND_PIXELS = 2**20  # not a row at a time: an image may be one pixel wide


def bands(image: Array) -> Iterator[Array]:
    """Yield an image, (H, W) or (H, W, C), as views of some rows each."""
    num_rows = max(1, BAND_PIXELS // max(1, image.shape[1]))
    for start in range(0, len(image), num_rows):
        yield image[start : start + num_rows]


def is_gray(image_HWC: Array) -> bool:
    """Say whether the channels of all pixels are equal."""
    return all(bool((band == band[:, :, :1]).all()) for band in bands(image_HWC))
