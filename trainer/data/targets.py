"""Decides whether target images are masks, or images themselves: what a network is to paint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from trainer.config import Data
from trainer.data.decoding import read_image
from trainer.data.headers import FORMATS, read_header
from trainer.data.matching import Pair

# mask: one value a pixel, whatever it means; colour: (H, W, 3); gray: colours made gray.
TargetKind = Literal["mask", "colour", "gray"]
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB")


def target_kind(parts: Mapping[str, Sequence[Pair]], data: Data) -> TargetKind:
    """Say how target images are read.

    Colours are kept where they are no masks: neither is said to be one (`target_is_mask` and its
    kin), and at least one file is coloured, or `random_patches` makes targets of the images. With
    `target_grayscale` they become gray.
    """
    targets = [pair.target for pairs in parts.values() for pair in pairs if pair.target]
    if data.says_mask or data.has_labels or not targets:
        return "mask"
    if data.patches is None and not any(map(_is_coloured, targets)):
        return "mask"
    return "gray" if data.is_target_gray else "colour"


def _is_coloured(path: Path) -> bool:
    header = read_header(path)
    if header.palette:  # indices, whatever their colours
        return False
    if header.tiff is None:
        with Image.open(path, formats=FORMATS) as image:  # its header only
            if image.mode not in _COLOUR_MODES:
                return False
    pixels = read_image(path, gray=False, header=header)
    return bool(np.any(pixels != pixels[:, :, :1]))
