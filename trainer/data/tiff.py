"""Says what a TIFF holds, and which library reads that kind of it right.

Neither OpenCV nor Pillow reads every TIFF right, and both give wrong pixels without a word where
they do not. Every combination of bits, planes, meaning, alpha, order of bytes and compression was
compared with tifffile (tests/trainer/test_decoders.py); `decoder_of` is the result.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

WIDTH, HEIGHT, BITS, COMPRESSION, MEANING = 256, 257, 258, 259, 262
TILE_WIDTH, TILE_HEIGHT = 322, 323
ORIENTATION, SAMPLES, PLANES, EXTRA, FORMAT, KIND = 274, 277, 284, 338, 339, 254
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
ASSOCIATED, UNASSOCIATED = 1, 2
MEANINGS = {0: "white is zero", 1: "gray", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr"}
FORMATS = {1: "uint", 2: "int", 3: "float"}
REDUCED = 1  # a smaller copy of another page
MAX_PAGES = 10_000
MAX_TAGS = 200_000  # of all pages
MAX_TILE = 2**24  # pixels: a reader makes room for a tile before it looks at the image
MAX_VALUES = 64  # of a tag; those that matter here have one, or one a sample
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True)
class TiffLayout:
    """How the pixels of the first page are stored, and how many pages there are.

    Attributes:
        extra: meaning of each sample beyond the colours: 0 unknown, 1 associated (colours are
            multiplied by it) and 2 unassociated alpha.
        num_pages: without smaller copies.
    """

    width: int
    height: int
    bits: tuple[int, ...]
    samples: int
    meaning: int
    is_planar: bool
    extra: tuple[int, ...]
    sample_format: int
    compression: int
    orientation: int
    num_pages: int

    @property
    def num_colours(self) -> int:
        """Samples that are colours; what is not said to be extra beyond gray or RGB is, too."""
        known = {RGB: 3, YCBCR: 3, CMYK: 4}.get(self.meaning, 1)
        return min(known, self.samples)

    @property
    def has_alpha(self) -> bool:
        """Whether a sample is said to be alpha."""
        return bool({ASSOCIATED, UNASSOCIATED} & set(self.extra))

    def describe(self) -> str:
        """Say what the pixels are."""
        kind = FORMATS.get(self.sample_format, "unknown")
        bands = f"{self.samples} bands" if self.samples > 1 else "1 band"
        text = f"{kind}{max(self.bits)}, {bands} ({MEANINGS.get(self.meaning, self.meaning)})"
        return text + (" in planes of their own" if self.is_planar and self.samples > 1 else "")


def read_layout(path: Path) -> TiffLayout | None:
    """Return what a TIFF's tags say, None if the file is no TIFF.

    Raises:
        ValueError, struct.error: it starts as one, and is broken.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(16)
        if len(head) < 8 or head[:2] not in (b"II", b"MM"):
            return None
        order = "<" if head[:2] == b"II" else ">"
        (magic,) = struct.unpack_from(f"{order}H", head, 2)
        if magic not in (42, 43):
            return None
        is_big = magic == 43
        (place,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", head, 8 if is_big else 4)
        pages, seen, left = [], set[int](), MAX_TAGS
        while place and place not in seen and len(seen) < MAX_PAGES:
            seen.add(place)
            tags, place = _read_page(file, place, order, is_big=is_big)
            pages.append(tags)
            left -= 1 + len(tags)
            if left < 0:
                raise ValueError("more tags than a TIFF has")
    if not pages:
        raise ValueError("a TIFF without an image")
    num_pages = sum(not (page.get(KIND, (0,))[0] & REDUCED) for page in pages)
    return _layout(pages[0], max(1, num_pages))


def _read_page(
    file: BinaryIO, place: int, order: str, *, is_big: bool
) -> tuple[dict[int, tuple[int, ...]], int]:
    number, pointer, size = ("Q", "Q", 20) if is_big else ("H", "I", 12)
    file.seek(place)
    (count,) = struct.unpack(f"{order}{number}", file.read(struct.calcsize(number)))
    if count > 4096:
        raise ValueError("more tags than a TIFF has")
    entries = file.read(count * size)
    rest = file.read(struct.calcsize(pointer))
    # Some writers leave out the end of the last page.
    (following,) = struct.unpack(f"{order}{pointer}", rest) if len(rest) > 3 else (0,)
    tags: dict[int, tuple[int, ...]] = {}
    for start in range(0, count * size, size):
        tag, kind, num_values = struct.unpack_from(f"{order}HH{pointer}", entries, start)
        if kind not in _TYPES or not 0 < num_values <= MAX_VALUES:
            continue
        values = f"{order}{num_values}{_TYPES[kind]}"
        room = struct.calcsize(f"={pointer}")
        at = start + size - room
        if struct.calcsize(values) <= room:
            tags[tag] = struct.unpack_from(values, entries, at)
        else:
            file.seek(struct.unpack_from(f"{order}{pointer}", entries, at)[0])
            tags[tag] = struct.unpack(values, file.read(struct.calcsize(values)))
    return tags, following


def _layout(tags: Mapping[int, tuple[int, ...]], num_pages: int) -> TiffLayout:
    def one(tag: int, default: int) -> int:
        return tags.get(tag, (default,))[0]

    if WIDTH not in tags or HEIGHT not in tags:
        raise ValueError("a TIFF that does not say its size")
    area = one(WIDTH, 0) * one(HEIGHT, 0)
    if one(TILE_WIDTH, 1) * one(TILE_HEIGHT, 1) > max(MAX_TILE, 4 * area):
        raise ValueError("a TIFF of tiles that are larger than it")
    orientation = one(ORIENTATION, 1)
    return TiffLayout(
        width=one(WIDTH, 0),
        height=one(HEIGHT, 0),
        bits=tags.get(BITS, (1,)),
        samples=one(SAMPLES, 1),
        meaning=one(MEANING, BLACK_IS_ZERO),
        is_planar=one(PLANES, 1) == 2,
        extra=tags.get(EXTRA, ()),
        sample_format=one(FORMAT, 1),
        compression=one(COMPRESSION, 1),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        num_pages=num_pages,
    )


def decoder_of(layout: TiffLayout) -> str:
    """Return who reads such pixels right: "opencv", "pillow", or "" for nobody."""
    bits, num_extra = set(layout.bits), layout.samples - layout.num_colours
    if layout.sample_format != 1 or len(bits) != 1:
        return ""
    (depth,) = bits
    is_gray = layout.meaning in (WHITE_IS_ZERO, BLACK_IS_ZERO)
    if layout.meaning == PALETTE:
        return "pillow" if layout.samples == 1 and depth <= 8 else ""
    if num_extra == 0 and (is_gray or layout.meaning in (RGB, CMYK, YCBCR)):
        if depth == 8 or (depth == 1 and is_gray):
            return "opencv"
        if depth == 12 and layout.meaning == BLACK_IS_ZERO and layout.samples == 1:
            return "pillow"  # OpenCV multiplies by 16
        if depth == 16 and layout.meaning in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
            return "" if layout.is_planar and layout.samples > 1 else "opencv"
        return ""
    if num_extra != 1:
        return ""
    if layout.meaning == RGB and depth == 8:
        # OpenCV multiplies the colours by unassociated alpha.
        return "pillow" if UNASSOCIATED in layout.extra else "opencv"
    if layout.meaning == RGB and depth == 16:
        return "" if layout.is_planar else "opencv"
    is_read = layout.meaning == BLACK_IS_ZERO and depth == 8 and not layout.is_planar
    return "pillow" if is_read else ""


def pillow_reads(layout: TiffLayout) -> bool:
    """Say whether Pillow reads right what OpenCV does, but for some compressions and tiles."""
    is_plain = layout.samples == layout.num_colours and set(layout.bits) == {8}
    return is_plain and layout.meaning in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB)
