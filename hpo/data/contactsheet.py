"""Draws a sheet of images with the outlines of their masks, to look at before training."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.data.images import Pair, read_image, read_mask
from trainer.data.overlay import overlay
from trainer.data.survey import MaskCoding

TILE_PX, CAPTION_PX, NUM_COLUMNS = 192, 16, 6
SEED = 0
OPACITY = 0.2
LARGE = 2**26  # values; a larger image is made small first, as floats take four times as much


def draw_sheet(
    path: Path, pairs: Sequence[Pair], coding: MaskCoding | None, *, num_images: int = 24
) -> None:
    """Write a PNG with up to `num_images` pairs, the same ones on every call.

    Each class but the first is outlined and tinted in a colour of its own; images are stretched
    to the range of their values, so that dark ones can be seen.
    """
    chosen = sorted(random.Random(SEED).sample(range(len(pairs)), min(num_images, len(pairs))))
    num_rows = max(1, math.ceil(len(chosen) / NUM_COLUMNS))
    height = TILE_PX + CAPTION_PX
    sheet = np.full((num_rows * height, NUM_COLUMNS * TILE_PX, 3), 32, np.uint8)
    for place, index in enumerate(chosen):
        top, left = place // NUM_COLUMNS * height, place % NUM_COLUMNS * TILE_PX
        tile = _draw(pairs[index], coding)
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        name = pairs[index].name.encode("ascii", "replace").decode()[-28:]
        where = (left + 3, top + TILE_PX + 12)
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(sheet, name, where, font, 0.36, (230, 230, 230), 1, cv2.LINE_AA)
    # imencode, not imwrite: imwrite says False for a folder that is not there, and nothing more
    path.write_bytes(cv2.imencode(".png", sheet)[1].tobytes())


def _draw(pair: Pair, coding: MaskCoding | None) -> NDArray[np.uint8]:
    """Return one tile, (H, W, 3) of at most TILE_PX."""
    assert pair.target is not None
    image, mask = read_image(pair.input, gray=False), read_mask(pair.target)
    if coding is not None and coding.kind != "continuous":
        mask = coding.encode(mask)
    scale = (TILE_PX - 2) / max(mask.shape)
    size = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
    low, high = float(image.min()), float(image.max())
    if image.size > LARGE:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    stretched = (image.astype(np.float32) - low) * (255 / max(high - low, 1))
    shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    tile = cv2.resize(stretched, size, interpolation=shrinks).round().clip(0, 255).astype(np.uint8)
    classes = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    return overlay(np.asarray(tile), classes, opacity=OPACITY)
