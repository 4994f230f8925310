"""Looks at an image's header: what it is, how large, which way up, and what else it holds."""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from trainer.data.tiff import ORIENTATION, TiffLayout, decoder_of, read_layout
from trainer.errors import DataError


def _max_pixels() -> int:
    text = os.environ.get("RML_MAX_PIXELS", "")
    return int(text) if text.isdecimal() and 0 < len(text) < 16 else 2**28


# 16,384 x 16,384: beyond that a file is a mistake or an attack. Four bytes each, so that of 16
# bits and three channels it is 13,377 x 13,377.
MAX_PIXELS = _max_pixels()
MAX_PIXEL_BYTES = 4 * MAX_PIXELS
HEADER_BYTES = 2**22  # that Pillow looks through for a header
SPARE_BYTES = 2**26  # of a file, for all that it holds beside its pixels
# Pillow warns beyond it, and refuses beyond twice as many: a GIF before it makes room for a frame.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
# What is read: Pillow's name of the format -> the suffixes of its files.
SUFFIXES_OF = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
}
FORMATS = tuple(SUFFIXES_OF)
_NAMES = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
_ONE_BAND = ("1", "L", "P", "I", "I;16", "I;16B", "F")
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels.

    Attributes:
        orientation: 1 to 8 as in EXIF, 1 for upright; TIFF has it in a tag of its own.
        palette: RGB of each index, empty where pixels are no indices.
        has_alpha: there is a channel, or a colour, that says what is transparent.
        num_unread: bands beyond gray or colours (and alpha) that are not read.
        tiff: how a TIFF's pixels are stored.
        is_gif: it is a GIF, which Pillow reads.
        num_frames: of an animation.
        is_jpeg: it is a JPEG.
        pixel_bytes: of each pixel, decoded.
    """

    width: int
    height: int
    orientation: int = 1
    palette: tuple[tuple[int, int, int], ...] = ()
    has_alpha: bool = False
    num_unread: int = 0
    tiff: TiffLayout | None = None
    is_gif: bool = False
    num_frames: int = 1
    is_jpeg: bool = False
    pixel_bytes: int = 4

    @property
    def num_bytes(self) -> int:
        """Of its pixels, decoded."""
        return self.width * self.height * self.pixel_bytes

    @property
    def is_deep_gray(self) -> bool:
        """Whether it is a PNG of gray with 16 bits."""
        return self.tiff is None and self.pixel_bytes == 2

    @property
    def max_file_bytes(self) -> int:
        """Beyond that a file holds something else; no compression makes pixels twice as large."""
        return 2 * self.num_bytes + SPARE_BYTES


def read_header(path: Path) -> Header:
    """Return a file's header, before decoding: a few kB can hold what takes gigabytes of memory.

    OpenCV knows more kinds than a data set needs, some of which allocate before they look.

    Raises:
        DataError: no such file, none that we read, too large, or pixels that nothing reads right.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise DataError(f"{path}: not a file; move it away")
    if status.st_size == 0:
        raise broken(path, "the file is empty")
    try:
        layout = read_layout(path)
        header = _of_tiff(path, layout) if layout is not None else _of_others(path)
    except Image.DecompressionBombError as error:
        raise _too_many(path, int(next(iter(re.findall(r"\d+", str(error))), 0))) from None
    except Exception:  # noqa: BLE001  (whatever the bytes lead to)
        raise broken(path, f"no {_NAMES}, whatever its name") from None
    num_pixels = header.width * header.height
    if num_pixels > MAX_PIXELS:
        raise _too_many(path, num_pixels)
    if header.num_bytes > MAX_PIXEL_BYTES:
        raise DataError(
            f"{path}: {num_pixels:,} pixels of {header.pixel_bytes} bytes; more than "
            f"{MAX_PIXEL_BYTES:,} bytes are refused"
        )
    if status.st_size > header.max_file_bytes:
        raise DataError(
            f"{path}: {status.st_size:,} bytes for {header.width}x{header.height} pixels; the "
            "file holds something else, write the image anew"
        )
    if header.num_frames > 1:
        raise DataError(
            f"{path}: holds {header.num_frames} images (an animation); one file is one image"
        )
    if layout is not None:
        _refuse_unread(path, layout)
    return header


def _too_many(path: Path, num_pixels: int) -> DataError:
    return DataError(f"{path}: {num_pixels:,} pixels; more than {MAX_PIXELS:,} are refused")


def _source(path: Path) -> Path | io.BytesIO:
    """Return what Pillow may look through: of JPEG and GIF it goes through zeros byte by byte."""
    with path.open("rb") as file:
        start = file.read(10)
        size = os.fstat(file.fileno()).st_size
        if start[:2] == b"\xff\xd8" and size > HEADER_BYTES:
            return io.BytesIO(start + file.read(HEADER_BYTES))
    if start[:3] == b"GIF":
        width, height = struct.unpack_from("<HH", start, 6)
        if size > 2 * width * height + HEADER_BYTES:
            raise ValueError("a GIF of many more bytes than pixels")
    return path


def _of_others(path: Path) -> Header:
    with Image.open(_source(path), formats=FORMATS) as image:
        depth = _png_depth(path) if image.format == "PNG" else 8
        return Header(
            image.width,
            image.height,
            # Not getexif(), which decodes a whole PNG to look behind its pixels.
            _orientation(image.info.get("exif", b"")),
            _palette(image) if image.mode in ("P", "PA") else (),
            image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info,
            is_gif=image.format == "GIF",
            num_frames=getattr(image, "n_frames", 1) if image.format == "GIF" else 1,
            is_jpeg=image.format == "JPEG",
            pixel_bytes=(2 if depth == 16 else 1) * (1 if image.mode in _ONE_BAND else 4),
        )


def _png_depth(path: Path) -> int:
    with path.open("rb") as file:
        return file.read(25)[-1]  # Pillow does not say it


def _of_tiff(path: Path, layout: TiffLayout) -> Header:
    palette: tuple[tuple[int, int, int], ...] = ()
    if layout.meaning == 3:
        with Image.open(path, formats=FORMATS) as image:
            palette = _palette(image)
    num_extra = layout.samples - layout.num_colours
    return Header(
        layout.width,
        layout.height,
        layout.orientation,
        palette,
        layout.has_alpha,
        num_extra - layout.has_alpha,
        layout,
        pixel_bytes=max(layout.samples, 1) * -(-max(layout.bits) // 8),
    )


def _palette(image: Image.Image) -> tuple[tuple[int, int, int], ...]:
    blank = Image.new("P", (1, 1))  # asked for its palette, the image would decode its pixels
    blank.palette = image.palette
    values = blank.getpalette("RGB") or []
    return tuple(zip(values[::3], values[1::3], values[2::3], strict=False))


def _orientation(exif: object) -> int:
    if not isinstance(exif, bytes) or not exif:
        return 1
    try:
        found = Image.Exif()
        found.load(exif)
        value = found.get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001  (Pillow raises whatever the bytes lead it to)
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _refuse_unread(path: Path, layout: TiffLayout) -> None:
    if layout.num_pages > 1:
        raise DataError(
            f"{path}: holds {layout.num_pages} images (pages of a TIFF); one file is one image: "
            "write each page into a file of its own"
        )
    if not decoder_of(layout):
        raise DataError(
            f"{path}: pixels are {layout.describe()}; expected 8 or 16 bits a channel, gray or "
            "colours (no planes of 16 bits); convert it, to PNG for example"
        )


def broken(path: Path, reason: str) -> DataError:
    """Return the error of a file that cannot be decoded."""
    return DataError(f"{path}: not a readable image ({reason}); replace or remove it")
