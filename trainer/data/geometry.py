"""What happens to an image once, when it is read: resize, centre crop, rotation, colours.

All by OpenCV, in the config's order. `undo` brings a prediction back to the image it was made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.data.images import Array, opencv_reason
from trainer.errors import DataError

SizeHW = tuple[int, int]


@dataclass(frozen=True)
class ReadingStep:
    """One step: its name as in the config, and its value; of `rotate`, in OpenCV's sense:
    counter-clockwise.

    `is_exact` says where the nearest pixel is when a mask is resized: at the pixels' centres, as
    images are, or with OpenCV's older rule at their corners, up to half a pixel beside the image.
    """

    name: str
    value: Any
    is_exact: bool = True


def read_through(
    image: Array, steps: tuple[ReadingStep, ...], *, nearest: bool, fill: int = 0
) -> Array:
    """Apply all steps to an (H, W) or (H, W, C) image.

    Args:
        image: 8 or 16 bits.
        steps: in this order; colours are converted where there is an axis of channels.
        nearest: take the nearest pixel instead of interpolating linearly, for masks.
        fill: what a rotation shows from beyond the border.

    Raises:
        DataError: a crop larger than the image, or what OpenCV refuses (HSV of 16 bits, say).
    """
    for step in steps:
        if step.name == "convert_color" and image.ndim == 2:
            continue
        try:
            image = _STEPS[step.name](image, step.value, _mode(step, nearest), fill)
        except cv2.error as error:
            if error.code == cv2.Error.StsNoMem:
                raise MemoryError(f"{step.name}: {error.err}") from None
            size = "x".join(map(str, image.shape))
            raise DataError(
                f"{step.name} {step.value}: OpenCV refuses images of {size} and "
                f"{8 * image.dtype.itemsize} bits ({opencv_reason(error)})"
            ) from None
    return image


def _mode(step: ReadingStep, nearest: bool) -> int:
    if not nearest:
        return cv2.INTER_LINEAR
    # Turning takes the centres in any case, and OpenCV has no other rule for it.
    return (
        cv2.INTER_NEAREST_EXACT if step.is_exact and step.name == "resize" else cv2.INTER_NEAREST
    )


def undo(
    values_HW: NDArray[np.float32], steps: tuple[ReadingStep, ...], size_HW: SizeHW
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Bring what was computed of a transformed image back to the image's own size and place.

    Args:
        values_HW: at the size that the steps lead to.
        steps: what the image went through.
        size_HW: the image's size before the first step.

    Returns:
        The values at `size_HW`, and where there are any: not where a crop or a rotation cut off.
    """
    sizes = [size_HW]
    for step in steps:
        sizes.append(_size_after(step, sizes[-1]))
    inside = np.ones(sizes[-1], np.uint8)
    for step, (height, width) in zip(reversed(steps), reversed(sizes[:-1]), strict=True):
        if step.name == "resize":
            values_HW = _resize(values_HW, (height, width), cv2.INTER_LINEAR, 0)
            inside = _resize(inside, (height, width), cv2.INTER_NEAREST_EXACT, 0)
        elif step.name == "center_crop":
            values_HW = _place(values_HW, (height, width))
            inside = _place(inside, (height, width))
        elif step.name == "rotate":
            values_HW = _rotate(values_HW, -step.value, cv2.INTER_LINEAR, 0)
            inside = _rotate(inside, -step.value, cv2.INTER_NEAREST, 0)
    return values_HW, inside > 0


def classes_at(
    probabilities_CHW: NDArray[np.float32],
    size_HW: SizeHW,
    reading: tuple[ReadingStep, ...],
) -> NDArray[np.uint8]:
    """Return class ids at the image's size and place: probabilities are moved, not classes.

    What a crop or a rotation cut off is background.
    """
    # channel by channel: OpenCV takes no more than four at once in every mode
    moved = [undo(channel, reading, size_HW) for channel in probabilities_CHW]
    values = np.stack([channel for channel, _ in moved])
    classes = values[0] > 0.5 if len(values) == 1 else values.argmax(0)
    return np.asarray(np.where(moved[0][1], classes, 0), dtype=np.uint8)


def final_size(steps: tuple[ReadingStep, ...]) -> SizeHW | None:
    """Return the size that the steps lead to whatever the image's own; None if it decides."""
    sized = [step.value for step in steps if step.name in ("resize", "center_crop")]
    return sized[-1] if sized else None


def _size_after(step: ReadingStep, size_HW: SizeHW) -> SizeHW:
    return step.value if step.name in ("resize", "center_crop") else size_HW


def _resize(image: Array, size_HW: SizeHW, mode: int, fill: int) -> Array:
    height, width = size_HW
    if image.shape[:2] == size_HW:
        return image
    resized = cv2.resize(image, (width, height), interpolation=mode)
    return resized.reshape(height, width, *image.shape[2:])  # OpenCV drops a last axis of one


def _center_crop(image: Array, size_HW: SizeHW, mode: int, fill: int) -> Array:
    (height, width), (wanted_height, wanted_width) = image.shape[:2], size_HW
    if wanted_height > height or wanted_width > width:
        raise DataError(
            f"center_crop [{wanted_height}, {wanted_width}] is larger than the image, "
            f"{height}x{width} (height x width); crop less, or resize before"
        )
    top, left = _corner((height, width), size_HW)
    return np.ascontiguousarray(image[top : top + wanted_height, left : left + wanted_width])


def _place(image: Array, size_HW: SizeHW) -> Array:
    """Undo a centre crop: zeros around the image."""
    height, width = image.shape[:2]
    top, left = _corner(size_HW, (height, width))
    placed = np.zeros((*size_HW, *image.shape[2:]), image.dtype)
    placed[top : top + height, left : left + width] = image
    return placed


def _corner(outer_HW: SizeHW, inner_HW: SizeHW) -> SizeHW:
    return (outer_HW[0] - inner_HW[0]) // 2, (outer_HW[1] - inner_HW[1]) // 2


def _rotate(image: Array, degrees: float, mode: int, fill: int) -> Array:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    rotated = cv2.warpAffine(
        image,
        matrix,
        (width, height),
        flags=mode,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(fill,) * 4,
    )
    return rotated.reshape(image.shape)


def _convert_color(image: Array, code: str, mode: int, fill: int) -> Array:
    converted = cv2.cvtColor(image, getattr(cv2, f"COLOR_{code}"))
    return converted[:, :, np.newaxis] if converted.ndim == 2 else converted


_STEPS: dict[str, Callable[[Array, Any, int, int], Array]] = {
    "resize": _resize,
    "center_crop": _center_crop,
    "rotate": _rotate,
    "convert_color": _convert_color,
}
