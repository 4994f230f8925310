"""Reads what comes from outside: files, JSON and numbers that nobody vouches for.

Whatever a worker, an image or a stranger's file says passes through here: regular files only, so
much and no more of them, numbers that are finite and in range.
No torch here: the driver imports this module.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.errors import DataError

MAX_DEPTH = 64  # of JSON: no file of ours goes beyond ten
MAX_LINE_BYTES = 2**20

# A string without an end takes all the rest, or finding that out would take quadratic time.
_NESTING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)


class BoundError(DataError, ValueError):
    """What comes from outside is larger, deeper, or of another kind than it may be."""


def open_regular(
    path: Path | str, *, folder: int | None = None, follow_links: bool = False
) -> int:
    """Open a regular file for reading, and nothing else: no link, FIFO, device or folder.

    Args:
        path: the file, below the open directory `folder` if that is given.
        follow_links: also take what a link leads to, for a user's own files.

    Raises:
        BoundError: it is there, but no regular file.
        OSError: it cannot be opened.
    """
    # seen before it is opened: to open a device may do something already
    if not stat.S_ISREG(os.stat(path, dir_fd=folder, follow_symlinks=follow_links).st_mode):
        raise BoundError(f"{path}: not a regular file")
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, dir_fd=folder)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)  # it was replaced in between
    raise BoundError(f"{path}: not a regular file")


def read_bytes(
    path: Path | str,
    max_bytes: int,
    *,
    offset: int = 0,
    cut: bool = False,
    folder: int | None = None,
    follow_links: bool = False,
) -> bytes:
    """Read a regular file from `offset` on, `max_bytes` of it at most.

    Args:
        cut: return the beginning of a file that is larger.

    Raises:
        BoundError: it is no regular file, or larger and not to be cut.
        OSError: it cannot be read.
    """
    descriptor = open_regular(path, folder=folder, follow_links=follow_links)
    with os.fdopen(descriptor, "rb") as file:
        file.seek(offset)
        # Python makes room for all that is asked for, before it looks how much there is.
        there = max(0, os.fstat(descriptor).st_size - offset)
        content = file.read(min(max_bytes, there + 1))
        if not cut and len(content) == max_bytes and file.read(1):
            raise BoundError(f"{path}: larger than {max_bytes} bytes")
    return content


def split_lines(
    content: bytes, *, max_lines: int, max_line: int = MAX_LINE_BYTES
) -> Iterator[str]:
    """Yield the first `max_lines` lines as text; what is longer than `max_line` bytes is "".

    A line ends in a newline only, which is left out. What is no UTF-8 is replaced.
    """
    start = 0
    for _ in range(max_lines):
        if start >= len(content):
            return
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        is_short = end - start <= max_line
        yield content[start:end].decode("utf-8", errors="replace") if is_short else ""
        start = end + 1


def parse_json(text: str, *, max_depth: int = MAX_DEPTH, non_finite_as_none: bool = False) -> Any:
    """Return what a JSON text says; the caller has bounded its length.

    Args:
        max_depth: of arrays and objects within each other.
        non_finite_as_none: read NaN, Infinity and 1e999 as None, where they are refused else.

    Raises:
        BoundError: no JSON, too deep, a number that is not finite, or one of thousands of digits.
    """
    check_depth(text, max_depth)

    def parse_float(digits: str) -> float | None:
        number = float(digits)  # also called for NaN and Infinity
        if math.isfinite(number):
            return number
        if non_finite_as_none:
            return None
        raise BoundError(f"not JSON: {digits[:20]} is no finite number")

    try:
        return json.loads(text, parse_float=parse_float, parse_constant=parse_float)
    except BoundError:
        raise
    except (ValueError, RecursionError) as error:
        raise BoundError(f"not JSON: {error}") from None


def check_depth(text: str, max_depth: int = MAX_DEPTH) -> None:
    """Refuse JSON whose arrays and objects are nested deeper, before anything recurses into it.

    Raises:
        BoundError: they are.
    """
    depth = 0
    for match in _NESTING.finditer(text):
        first = text[match.start()]
        depth += (first in "[{") - (first in "]}")
        if depth > max_depth:
            raise BoundError(f"not JSON of ours: nested deeper than {max_depth}")


def finite(value: object, low: float = -math.inf, high: float = math.inf) -> float | None:
    """Return a number if it is finite and within both ends, else None; True is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not low <= value <= high:  # false of NaN; an int of any size can be compared
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def whole(value: object, low: int, high: int) -> int | None:
    """Return a whole number within both ends, else None; True is no number."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return value if is_int and low <= value <= high else None  # type: ignore[operator,return-value]
