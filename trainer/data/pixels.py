"""Takes an image that is in memory for one that was read from a file."""

from __future__ import annotations

import cv2
import numpy as np

from trainer.data.images import Array
from trainer.errors import DataError


def as_stored(image: Array, *, gray: bool, order: str) -> Array:
    """Return an array as `read_image` returns a file: (H, W, 1), or (H, W, 3) in BGR order.

    Args:
        image: (H, W), (H, W, 1), or (H, W, 3 or 4), uint8 or uint16.
        gray: make one channel of it.
        order: of its colours, "rgb" or "bgr".

    Raises:
        DataError: it is none of these.
    """
    if order not in ("rgb", "bgr"):
        raise DataError(f"order: {order!r} is not 'rgb' or 'bgr'")
    if image.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"the array is {image.dtype}; expected uint8 or uint16, the values that an image file "
            "stores (of values from 0 to 1: (255 * image).round().astype('uint8'))"
        )
    if image.ndim == 2:
        image = image[:, :, np.newaxis]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or not image.size:
        raise DataError(
            f"the array has shape {image.shape}; expected one image, (H, W), (H, W, 1) or "
            "(H, W, 3)"
        )
    image = image[:, :, :3]
    if image.shape[2] == 1:
        return np.ascontiguousarray(image if gray else image.repeat(3, 2))
    image = np.ascontiguousarray(image if order == "bgr" else image[:, :, ::-1])
    if not gray:
        return image
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))[:, :, np.newaxis]
