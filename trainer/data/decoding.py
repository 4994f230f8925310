"""Reads the pixels of images and masks, by the library that reads their kind right.

Both are turned as their orientation tag says, so that an image and its mask lie as a viewer shows
them, whichever of the two has one.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from trainer.bounded import read_bytes
from trainer.data.bands import BAND_PIXELS, bands, is_gray
from trainer.data.headers import FORMATS, Header, broken, read_header
from trainer.data.tiff import WHITE_IS_ZERO, decoder_of, pillow_reads
from trainer.errors import DataError

Array = NDArray[Any]  # uint8 or uint16, as stored in the file

# What is wrong with a file is said by our own line, with its name.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

Colour = tuple[int, int, int]

MAX_SCANS = 16  # of a JPEG; a progressive one has ten
MAX_SCANNED = 2**30  # pixels, each time that a scan goes over them: a few seconds

COLOURED = "the mask is coloured"
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def read_image(path: Path, *, gray: bool, header: Header | None = None) -> Array:
    """Read an input as OpenCV does: (H, W, 3) in BGR order, or (H, W, 1); 8 or 16 bits.

    Alpha is dropped, the colours are those that are stored.

    Args:
        path: the file.
        gray: one channel.
        header: the file's, where it is known.

    Raises:
        DataError: the file is empty, broken or not an image.
    """
    header = header or read_header(path)
    if _decoder(header) == "pillow":
        image = _pillow(path, header)
        if header.palette:
            if image.max(initial=0) >= len(header.palette):
                raise broken(path, "a colour that its palette has not")
            image = _coloured(image, header.palette, gray=gray)
        else:
            image = _with_channels(image, gray=gray)
    elif header.is_deep_gray and not gray:
        image = _opencv(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, header)
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)  # OpenCV reads into two images of colours
    else:
        flag = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR
        image = _opencv(path, flag | cv2.IMREAD_ANYDEPTH, header)
    image = image[:, :, np.newaxis] if image.ndim == 2 else image
    return np.ascontiguousarray(image)


def read_mask(path: Path, header: Header | None = None) -> Array:
    """Read a mask as its stored values, (H, W): palette images give their indices.

    A palette of black and white alone says more than its indices, whose order is the writer's
    whim: black is 0 and white 255.

    Raises:
        DataError: the file is broken, its channels differ (a mask of colours), or what it shows
            is in its alpha channel.
    """
    header = header or read_header(path)
    if header.palette:
        indices = _turned(_pillow(path, header), header)
        return np.ascontiguousarray(_black_and_white(indices, header))
    if _decoder(header) == "pillow":
        mask = _pillow(path, header)
    else:
        mask = _opencv(path, cv2.IMREAD_UNCHANGED, header)
    if mask.ndim == 3:
        mask = _one_channel(path, mask, header)
    return np.ascontiguousarray(mask)


def palette_colours(header: Header, mask: Array) -> dict[int, Colour] | None:
    """Return value -> colour of a mask that was read from a palette image, None for others."""
    palette = header.palette
    if not palette:
        return None
    values = np.unique(mask).tolist()
    if _is_black_and_white(palette) and set(values) <= {0, 255}:
        return {value: (value, value, value) for value in values}
    return {value: palette[value] for value in values if value < len(palette)}


def _is_black_and_white(palette: tuple[Colour, ...]) -> bool:
    return set(palette) == {BLACK, WHITE}


def _black_and_white(indices: Array, header: Header) -> Array:
    if not _is_black_and_white(header.palette):
        return indices
    used = np.unique(indices).tolist()
    colours = [header.palette[index] for index in used if index < len(header.palette)]
    # Of a palette that means nothing, several indices have one colour: these are class ids.
    if len(colours) < len(used) or len(set(colours)) < len(colours):
        return indices
    table = np.zeros(256, np.uint8)
    for index, colour in zip(used, colours, strict=True):
        table[index] = colour[0]
    return np.asarray(cv2.LUT(indices, table))  # NumPy would take eight bytes for each index


def _one_channel(path: Path, mask: Array, header: Header) -> Array:
    has_alpha = mask.shape[2] in (2, 4)
    colours = mask[:, :, : 1 if mask.shape[2] == 2 else 3]
    if not is_gray(colours) or (mask.shape[2] == 2 and not header.has_alpha):
        raise DataError(
            f"{path}: {COLOURED} ({mask.shape[2]} channels that differ); "
            "expected one value a pixel, the class"
        )
    values = mask[:, :, 0]
    if has_alpha:
        alpha = mask[:, :, -1]
        hides = ((alpha == 0) & (values != 0)).any()
        alone = alpha.min() != alpha.max() and values.min() == values.max()
        if hides or alone:
            raise DataError(
                f"{path}: what the mask shows is in its alpha channel, which is not read; write "
                "it over black (ImageMagick: -background black -alpha remove), or alpha itself "
                "as the mask (-alpha extract)"
            )
    return values


def _decoder(header: Header) -> str:
    if header.is_gif:
        return "pillow"
    return "opencv" if header.tiff is None else decoder_of(header.tiff)


def _coloured(indices: Array, palette: tuple[Colour, ...], *, gray: bool) -> Array:
    """Return (H, W, 3) in BGR, or (H, W), of the indices of a palette."""
    colours = _with_channels(np.asarray([palette], np.uint8), gray=gray)
    table = np.zeros((256, *colours.shape[2:]), np.uint8)
    table[: len(palette)] = colours[0]
    image = np.empty((*indices.shape, *table.shape[1:]), np.uint8)
    for band, found in zip(bands(image), bands(indices), strict=True):
        band[...] = table[found]
    return image


def _with_channels(image: Array, *, gray: bool) -> Array:
    """Return (H, W, 3) in BGR, or (H, W), of gray or RGB with or without alpha."""
    if image.ndim == 3 and image.shape[2] == 2:
        image = image[:, :, 0]
    if image.ndim == 3:
        return cv2.cvtColor(image[:, :, :3], cv2.COLOR_RGB2GRAY if gray else cv2.COLOR_RGB2BGR)
    return image if gray else np.asarray(image[:, :, np.newaxis].repeat(3, 2))


def _content(path: Path, header: Header) -> bytes:
    try:
        return read_bytes(path, header.max_file_bytes, follow_links=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _pillow(path: Path, header: Header) -> Array:
    """Return the stored values; Pillow turns a TIFF by its tag, and nothing else."""
    content = _content(path, header)
    try:
        # From memory: a TIFF that Pillow maps is garbled where its tag turns it by 90 degrees.
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()  # turns it; before that its shape is another
            pixels = _pixels(image)
    except UnidentifiedImageError:
        raise broken(path, "Pillow cannot decode it") from None
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  (Pillow raises whatever the bytes lead it to)
        raise broken(path, " ".join(str(error).split())) from None
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        return pixels.astype(np.uint16, copy=False)  # in our order of bytes
    return pixels.astype(np.uint8, copy=False)


def _pixels(image: Image.Image) -> Array:
    """Return what Pillow has decoded; of all at once it would make two copies on the way."""
    num_rows = max(1, BAND_PIXELS // image.width)
    pixels = np.asarray(image.crop((0, 0, image.width, min(num_rows, image.height))))
    if num_rows >= image.height:
        return pixels
    found = np.empty((image.height, *pixels.shape[1:]), pixels.dtype)
    for start in range(0, image.height, num_rows):
        end = min(start + num_rows, image.height)
        found[start:end] = np.asarray(image.crop((0, start, image.width, end)))
    return found


def _opencv(path: Path, flags: int, header: Header) -> Array:
    content = _content(path, header)
    if header.is_jpeg:
        _refuse_scans(path, content, header)
    try:
        image = cv2.imdecode(
            np.frombuffer(content, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"{path}: {error.err}") from None
        raise broken(path, opencv_reason(error) or "OpenCV refused it") from None
    if image is None and header.tiff is not None and pillow_reads(header.tiff):
        pixels = _pillow(path, header)
        if flags == cv2.IMREAD_UNCHANGED:
            return pixels
        return _with_channels(pixels, gray=not flags & cv2.IMREAD_COLOR)
    if image is None:
        what = f": {header.tiff.describe()}" if header.tiff is not None else ""
        raise broken(path, f"OpenCV cannot decode it{what}")
    if image.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path}: pixels are {image.dtype}; expected 8 or 16 bits a channel")
    if header.tiff is None:
        return _turned(image, header)
    if header.tiff.meaning == WHITE_IS_ZERO and image.dtype == np.uint16:
        return np.asarray(np.iinfo(np.uint16).max - image)  # it does so at 8 bits only
    return np.asarray(image)  # of TIFF it heeds the tag, whatever it is told


def _refuse_scans(path: Path, content: bytes, header: Header) -> None:
    """Refuse a JPEG that goes over its pixels again and again, a few bytes each time."""
    num_scans = content.count(b"\xff\xda")  # which stands nowhere else but in a thumbnail
    if num_scans > MAX_SCANS and num_scans * header.width * header.height > MAX_SCANNED:
        raise broken(path, f"{num_scans} scans")


def _turned(image: Array, header: Header) -> Array:
    """Turn pixels as the orientation tag of a file that is no TIFF says."""
    if header.tiff is not None:
        return image
    orientation = header.orientation
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    mirrored_y, mirrored_x = {
        1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1),
        5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1),
    }[orientation]  # fmt: skip
    return image[::mirrored_y, ::mirrored_x]


def opencv_reason(error: cv2.error) -> str:
    """Return what OpenCV says of an error, which may be several lines, in one."""
    return " ".join(error.err.split())
