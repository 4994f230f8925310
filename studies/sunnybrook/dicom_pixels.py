"""Looks at the pixels of a DICOM file before they are unpacked: a few MB can hold gigabytes."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from trainer.data.headers import MAX_PIXELS, SPARE_BYTES
from trainer.errors import DataError

MAX_FILE_BYTES = 2 * MAX_PIXELS + SPARE_BYTES
DEFLATED = b"1.2.840.10008.1.2.1.99"
_PREAMBLE = 132  # bytes, "DICM" at the end
_FRAME_BYTES = 64 * 1024  # of a frame's beginning, where a codec says how large it is


def inflated(content: bytes) -> bytes:
    """Return a DICOM file whose data set is not deflated as a whole any more.

    Raises:
        DataError: it holds more than 64 MiB and eight times its bytes.
    """
    end = _end_of_meta(content)
    if end is None or DEFLATED not in content[_PREAMBLE:end]:
        return content
    limit = 8 * len(content) + SPARE_BYTES
    try:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        unpacked = unpacker.decompress(content[end:], limit)
    except zlib.error as error:
        raise DataError(f"broken: it cannot be unpacked ({error})") from None
    if len(unpacked) >= limit:
        raise DataError(f"it unpacks to more than {limit:,} bytes; store it without deflation")
    # The same syntax without deflation; the unused end of its name is filled up.
    plain = b"1.2.840.10008.1.2.1".ljust(len(DEFLATED), b"\0")
    return content[:_PREAMBLE] + content[_PREAMBLE:end].replace(DEFLATED, plain) + unpacked


def _end_of_meta(content: bytes) -> int | None:
    """Return where the elements about the file end, which are never packed."""
    if content[_PREAMBLE - 4 : _PREAMBLE] != b"DICM":
        return None
    at = _PREAMBLE
    while content[at : at + 2] == b"\x02\x00":
        head = content[at : at + 12]
        if len(head) < 12:
            return None
        if head[4:6] in (b"OB", b"OW", b"UN", b"SQ", b"UT"):
            at += 12 + int(struct.unpack_from("<I", head, 8)[0])
        else:
            at += 8 + int(struct.unpack_from("<H", head, 6)[0])
    return at


def pixel_problem(dataset: Any) -> str:
    """Say why the pixels of a data set are not unpacked; "" where they may be."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    bits = int(dataset.BitsAllocated)
    if rows < 1 or columns < 1 or bits not in (1, 8, 16, 32):
        return f"{rows}x{columns} pixels of {bits} bits; expected a gray image of up to 32 bits"
    if rows * columns > MAX_PIXELS:
        return f"{rows * columns:,} pixels; more than {MAX_PIXELS:,} are refused"
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        expected, found = -(-rows * columns * bits // 8), len(dataset.PixelData)
        if found > expected + expected % 2:  # of less pydicom says what is missing
            return f"says {rows}x{columns} pixels, {expected} bytes, and holds {found}"
        return ""
    if dataset.file_meta.TransferSyntaxUID.is_deflated:
        return ""
    from pydicom.encaps import generate_frames

    frames = generate_frames(dataset.PixelData, number_of_frames=1)
    size = _size_of_frame(next(frames)[:_FRAME_BYTES])
    if size not in (None, (rows, columns)):
        return f"says {rows}x{columns} pixels, and holds {size[0]}x{size[1]}" if size else ""
    return ""


def _size_of_frame(frame: bytes) -> tuple[int, int] | None:
    """Return height and width that a stream of JPEG, -LS or 2000 says; None of others."""
    if frame[:4] == b"\xff\x4f\xff\x51" and len(frame) >= 24:
        right, bottom, left, top = struct.unpack_from(">IIII", frame, 8)
        return int(bottom - top), int(right - left)
    if frame[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # a filling byte
            at += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width = struct.unpack_from(">HH", frame, at + 5)
            return int(height), int(width)
        at += 2 + int(struct.unpack_from(">H", frame, at + 2)[0])
    return None
