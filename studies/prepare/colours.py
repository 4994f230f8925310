"""Masks whose classes are colours: a table of colours makes class ids of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from trainer.data.images import Array, read_image
from trainer.errors import DataError
from trainer.wording import counted

MAX_COLOURS = 32  # more are shades or noise, not classes
MAX_COUNTED = 4096
BLOCK_PIXELS = 2**20
VOID_VALUE = 255


def parse_colours(text: str) -> dict[int, int]:
    """Return colour (0xRRGGBB) -> class id for `000000,ff0000,e0e0c0=255`, ids by place.

    Raises:
        DataError: no such list, or a colour twice.
    """
    table: dict[int, int] = {}
    for place, part in enumerate(text.split(",")):
        match = re.fullmatch(r"\s*#?([0-9a-fA-F]{6})(?:=(\d{1,3}))?\s*", part)
        value = int(match[2]) if match and match[2] else place
        if match is None or value > VOID_VALUE or int(match[1], 16) in table:
            raise DataError(
                f"--colors: expected different colours RRGGBB, background first, with =VALUE for "
                f"a value of its own (000000,ff0000,e0e0c0=255), not {part.strip()!r}"
            )
        table[int(match[1], 16)] = value
    return table


def recode(path: Path, table: Mapping[int, int]) -> Array:
    """Return the class ids of a mask of colours, (H, W).

    Raises:
        DataError: it cannot be read, or has a colour that is not in the table.
    """
    blocks, unknown = [], np.zeros(0, np.uint32)
    known = np.array(sorted(table), np.uint32)
    for packed in _packed(path):
        colours, places = np.unique(packed, return_inverse=True)
        unknown = np.union1d(unknown, np.setdiff1d(colours, known, assume_unique=True))
        values = np.array([table.get(colour, 0) for colour in colours.tolist()], np.uint8)
        blocks.append(values[places.reshape(packed.shape)])
    if len(unknown):
        raise DataError(
            f"{path}: {counted(len(unknown), 'colour is', 'colours are')} not in --colors: "
            + ", ".join(f"{colour:06x}" for colour in unknown[:8].tolist())
        )
    return np.concatenate(blocks)


def count_colours(path: Path) -> Counter[int]:
    """Count the pixels of each colour of a mask, as 0xRRGGBB; where they are many, not of all."""
    found: Counter[int] = Counter()
    for packed in _packed(path):
        colours, counts = np.unique(packed, return_counts=True)
        found.update(dict(zip(colours.tolist(), counts.tolist(), strict=True)))
        if len(found) > MAX_COUNTED:
            break
    return found


def propose(counts: Counter[int]) -> str | None:
    """Return a table for masks with these pixels a colour: the most frequent is the background.

    None where there are too many to be classes.
    """
    if not 1 < len(counts) <= MAX_COLOURS:
        return None
    return ",".join(f"{colour:06x}" for colour, _ in counts.most_common())


def _packed(path: Path) -> Iterator[Array]:
    """Yield 0xRRGGBB of each pixel, a few rows at a time: sorting takes 80 bytes a pixel."""
    image = read_image(path, gray=False)
    if image.dtype != np.uint8:
        raise DataError(f"{path}: a mask of colours has 8 bits a channel, this one 16")
    num_rows = max(1, BLOCK_PIXELS // image.shape[1])
    for top in range(0, len(image), num_rows):
        rows = image[top : top + num_rows]
        blue, green, red = (rows[:, :, channel].astype(np.uint32) for channel in range(3))
        yield np.asarray(red << 16 | green << 8 | blue)
