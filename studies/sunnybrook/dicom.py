"""One DICOM slice as a 16-bit image, and a contour as a mask."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from studies.sunnybrook.dicom_pixels import MAX_FILE_BYTES, inflated, pixel_problem
from trainer.bounded import read_bytes
from trainer.errors import DataError, UserError
from trainer.extras import how_to_install

SAMPLES = "SamplesPerPixel"
ROWS = 256
MAX_CONTOUR_BYTES = 2**22
FULL_SCALE = 65535
SUBPIXELS = 16  # of the grid that a contour is drawn on; contours have two decimals

Window = Literal["file", "range"]


def read_slice(path: Path, window: Window = "file") -> NDArray[np.uint16]:
    """Read a slice, rescale it and map its window to the full scale of 16 bits.

    Args:
        path: a DICOM file with one monochrome frame, in any transfer syntax that pydicom or
            GDCM decodes.
        window: "file" maps the file's first window (PS3.3 C.11.2.1.2.1, linear) to the full
            scale, or the range of its values where it has none; "range" always does the latter.

    Returns:
        (H, W).

    Raises:
        DataError: not a DICOM file, no pixel data, several frames or channels, or a broken one.
        UserError: pydicom is not installed.
    """
    dataset, stored = _read(path)
    slope, intercept = _rescaling(dataset, path)
    ends = [float(stored.min()) * slope + intercept, float(stored.max()) * slope + intercept]
    low, high = min(ends), max(ends)
    centre, width = (_number(dataset, key, path) for key in ("WindowCenter", "WindowWidth"))
    if window == "file" and centre is not None and width is not None and width > 1:
        low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
        limits = np.iinfo(stored.dtype)
        possible = sorted((limits.min * slope + intercept, limits.max * slope + intercept))
        if not (low <= possible[1] and high >= possible[0]):
            raise DataError(
                f"{path}: its window, {centre:g} wide {width:g}, is beyond all values that its "
                "pixels can have; read it with --window range"
            )
    mapped = np.empty(stored.shape, np.uint16)
    for top in range(0, len(stored), ROWS):  # as numbers of 64 bits a few rows at a time
        values = stored[top : top + ROWS].astype(np.float64) * slope + intercept
        share = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)
        if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
            share = 1.0 - share
        mapped[top : top + ROWS] = np.rint(share * FULL_SCALE)
    return mapped


def _rescaling(dataset: Any, path: Path) -> tuple[float, float]:
    """Return slope and intercept.

    Raises:
        DataError: with them, stored values that differ would be equal, or no numbers.
    """
    given = _number(dataset, "RescaleSlope", path), _number(dataset, "RescaleIntercept", path)
    slope, intercept = given[0] or 1.0, given[1] or 0.0
    if not 1e-30 < abs(slope) < 1e30 or abs(intercept) > abs(slope) * 2**40:
        raise DataError(
            f"{path}: RescaleSlope {slope:g} and RescaleIntercept {intercept:g} leave nothing of "
            "its values; mend them, or leave the file out"
        )
    return slope, intercept


def _read(path: Path) -> tuple[Any, NDArray[Any]]:
    try:
        import pydicom
    except ImportError:
        raise UserError(f"DICOM files need pydicom: {how_to_install('dicom')}") from None
    try:
        content = read_bytes(path, MAX_FILE_BYTES, follow_links=True)
        # Forced: files without the preamble are read like others, and looked at below.
        dataset = pydicom.dcmread(io.BytesIO(inflated(content)), force=True)
        known = any(key in dataset for key in ("SOPClassUID", "Modality", "Rows", "PixelData"))
    except DataError as error:
        raise DataError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # noqa: BLE001 - a broken header may raise anything
        raise DataError(f"{path}: not a DICOM file, or a broken one ({_line(error)})") from None
    if not known:
        raise DataError(f"{path}: not a DICOM file")
    if "PixelData" not in dataset:
        raise DataError(f"{path}: no pixel data in this DICOM file")
    frames, samples = _whole(dataset, "NumberOfFrames", path), _whole(dataset, SAMPLES, path)
    if frames not in (None, 1) or samples not in (None, 1):
        raise DataError(
            f"{path}: several frames or colours; expected one gray slice a file "
            "(dcm2img of DCMTK takes them apart)"
        )
    if "TransferSyntaxUID" not in dataset.file_meta:
        _take_for_plain(dataset, path)
    try:
        problem = pixel_problem(dataset)
        pixels = None if problem else np.asarray(dataset.pixel_array)
    except Exception as error:  # noqa: BLE001 - decoders raise whatever they like
        syntax = getattr(dataset.file_meta.get("TransferSyntaxUID"), "name", "none given")
        raise DataError(
            f"{path}: pixels cannot be decoded (transfer syntax: {syntax}): {_line(error)}"
        ) from None
    if pixels is None or pixels.ndim != 2 or pixels.dtype.kind not in "iu" or not pixels.size:
        raise DataError(f"{path}: {problem or 'expected one gray slice of whole numbers'}")
    return dataset, pixels


def _whole(dataset: Any, key: str, path: Path) -> int | None:
    number = _number(dataset, key, path)
    return None if number is None else int(number)


def _take_for_plain(dataset: Any, path: Path) -> None:
    """Let a file that does not say how its pixels are stored have plain ones, if they fill it.

    Raises:
        DataError: they don't, so they may be compressed in any way.
    """
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    is_implicit, is_little = dataset.original_encoding
    try:
        num_bytes = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
        is_plain = 0 <= len(dataset.PixelData) - num_bytes <= num_bytes % 2  # of an even length
    except (AttributeError, TypeError):
        is_plain = False
    if not is_plain:
        raise DataError(
            f"{path}: does not say how its pixels are stored (no transfer syntax), and they are "
            "not plain ones; write it anew from its source"
        )
    little = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
    dataset.file_meta.TransferSyntaxUID = little if is_little else ExplicitVRBigEndian


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _number(dataset: Any, key: str, path: Path) -> float | None:
    """Return the first number of an element, None where it has none.

    Raises:
        DataError: it is no finite number.
    """
    try:
        value = dataset.get(key)
        if isinstance(value, list | tuple) or hasattr(value, "append"):
            value = value[0] if len(value) else None
        number = None if value is None or value == "" else float(value)
    except Exception as error:  # noqa: BLE001 - pydicom reads an element when it is asked for
        raise DataError(f"{path}: {key} is no number ({_line(error)})") from None
    if number is not None and not math.isfinite(number):
        raise DataError(f"{path}: {key} is {number:g}; expected a finite number")
    return number


def read_contour(path: Path) -> NDArray[np.float64]:
    """Read a contour file: a line "x y" a point, in pixels.

    Returns:
        (N, 2), x and y.

    Raises:
        DataError: no polygon in it.
    """
    try:
        points = np.array(
            [
                [float(text) for text in line.split()]
                for line in read_bytes(path, MAX_CONTOUR_BYTES, follow_links=True)
                .decode()
                .splitlines()
                if line.strip()
            ]
        )
    except (OSError, ValueError) as error:
        raise DataError(f'{path}: not a contour of lines "x y" ({error})') from None
    if (
        points.ndim != 2
        or points.shape[1] != 2
        or len(points) < 3
        or not np.isfinite(points).all()
    ):
        raise DataError(f'{path}: expected three or more lines "x y"')
    return points


def fill_contour(points: NDArray[np.float64], size_HW: tuple[int, int]) -> NDArray[np.uint8]:
    """Return 255 where a pixel's centre, (x, y) of integers, is in the polygon or on its border.

    OpenCV's fill draws every pixel that the border touches, half a pixel too many all around, so
    it is done on a grid of sixteenths, of which each pixel's centre is looked up. Where the
    border crosses itself, the even-odd rule holds.
    """
    height, width = size_HW
    low = np.floor(points.min(axis=0)).astype(int) - 1
    high = np.ceil(points.max(axis=0)).astype(int) + 1
    fine = np.zeros((high - low)[::-1] * SUBPIXELS + 1, dtype=np.uint8)
    cv2.fillPoly(fine, [np.rint((points - low) * SUBPIXELS).astype(np.int32)], 255)
    centres = fine[::SUBPIXELS, ::SUBPIXELS]
    mask = np.zeros((height, width), dtype=np.uint8)
    x0, y0 = max(low[0], 0), max(low[1], 0)
    x1, y1 = min(high[0] + 1, width), min(high[1] + 1, height)
    mask[y0:y1, x0:x1] = centres[y0 - low[1] : y1 - low[1], x0 - low[0] : x1 - low[0]]
    return mask
