"""Draws a trial's learning curve as a small PNG: by OpenCV, in milliseconds.

A driver that draws one after each trial need not load matplotlib for it (a second or more, 66 MB,
and 0.1 s a picture, while no other thread of the search runs).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH_PX, HEIGHT_PX = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 34, 40  # margins
MAX_TICKS = 6
MAX_DECIMALS = 4  # of a number beside the axis, for want of room
INK, GRID, LINE, BEST = (60, 60, 60), (225, 225, 225), (180, 119, 31), (14, 127, 255)  # BGR
_SHIFT = 4  # coordinates with fractions of a pixel, of 1/16
Point = tuple[float, float]


def curve_picture(curve: Mapping[int, float], best: int, title: str) -> bytes:
    """Return the score after each epoch as a PNG, its best epoch marked.

    Args:
        curve: score by epoch, at least one.
        best: the best epoch.
        title: of few words, in ASCII: OpenCV has no other letters.
    """
    sheet = np.full((HEIGHT_PX, WIDTH_PX, 3), 255, np.uint8)
    epochs = sorted(curve)
    low, high, step = _scale(min(curve.values()), max(curve.values()))
    first, last = epochs[0], max(epochs[-1], epochs[0] + 1)

    def place(epoch: float, score: float) -> Point:
        return (
            LEFT + (epoch - first) / (last - first) * (WIDTH_PX - LEFT - RIGHT),
            TOP + (high - score) / (high - low) * (HEIGHT_PX - TOP - BOTTOM),
        )

    decimals = max(1, -math.floor(math.log10(step)))
    style = f".{decimals}f" if decimals <= MAX_DECIMALS else ".3g"
    for i in range(round((high - low) / step) + 1):
        _line(sheet, place(first, low + i * step), place(last, low + i * step), GRID)
        y = place(first, low + i * step)[1]
        _text(sheet, f"{low + i * step:{style}}", (LEFT - 8, y + 4), align=1.0)
    for epoch in range(first, last + 1, max(1, math.ceil((last - first) / MAX_TICKS))):
        x = place(epoch, low)[0]
        _text(sheet, str(epoch), (x, HEIGHT_PX - BOTTOM + 16), align=0.5)
    _text(sheet, "epoch", ((WIDTH_PX + LEFT) / 2, HEIGHT_PX - 8), align=0.5)
    _text(sheet, title, (LEFT, 20))
    points = [place(epoch, curve[epoch]) for epoch in epochs]
    for begin, end in pairwise(points):
        _line(sheet, begin, end, LINE, 2)
    radius = 3 if len(points) <= 60 else 0
    for epoch, (x, y) in zip(epochs, points, strict=True):
        is_best = epoch == best
        size, colour = (5, BEST) if is_best else (radius, LINE)
        if size:
            centre = (round(x * 2**_SHIFT), round(y * 2**_SHIFT))
            cv2.circle(sheet, centre, size << _SHIFT, colour, -1, cv2.LINE_AA, _SHIFT)
    return _encoded(sheet)


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Return where the axis begins and ends, and the step between its numbers."""
    # A hundredth of the score itself is no more than noise.
    room = max(high - low, 0.01 * min(1.0, max(abs(low), abs(high)))) or 0.01
    step = 10 ** math.floor(math.log10(room / (MAX_TICKS - 1)))
    step = next(step * k for k in (1, 2, 5, 10) if room / (step * k) <= MAX_TICKS - 1)
    begin = math.floor(low / step) * step
    return begin, max(math.ceil(high / step) * step, begin + step), step


def _line(
    sheet: NDArray[np.uint8],
    begin: Point,
    end: Point,
    colour: tuple[int, int, int],
    width: int = 1,
) -> None:
    first, last = (tuple(round(v * 2**_SHIFT) for v in point) for point in (begin, end))
    cv2.line(sheet, first, last, colour, width, cv2.LINE_AA, _SHIFT)


def _text(sheet: NDArray[np.uint8], text: str, where: Point, *, align: float = 0.0) -> None:
    """Write a text that ends (1), is centred (0.5) or begins (0) there."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    (width, _), _ = cv2.getTextSize(text, font, scale, 1)
    left = (round(where[0] - align * width), round(where[1]))
    cv2.putText(sheet, text, left, font, scale, INK, 1, cv2.LINE_AA)


def _encoded(sheet: NDArray[np.uint8]) -> bytes:
    done, encoded = cv2.imencode(".png", sheet)
    assert done  # 8 bits, three channels
    return bytes(encoded.tobytes())
