"""Tells whether a data set is the one that was decoded before, from its files' status alone.

Reading 3,000 files to hash them would take seconds from a network disk. Name, size, inode, time
of change of the content (mtime) and of the file itself (ctime, which no program can set back)
differ for every file that was edited, replaced or renamed; they also differ now and then for one
that was not (a new hard link), which costs decoding it again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import PIL

from trainer.config import Data
from trainer.data.images import Pair
from trainer.data.transforms import Steps
from trainer.errors import DataError

FORMAT = 4  # of what an entry holds, and of what is refused before it is made
# A file that is written twice within one tick of its file system's clock shows no difference:
# so the status counts only when it is older than that. Whole seconds tell a coarse clock.
FINE_TICK_NS = 50_000_000
COARSE_TICK_NS = 2_000_000_000


def data_key(
    parts: Mapping[str, Sequence[Pair]], data: Data, steps: tuple[Steps, Steps], kind: str = "mask"
) -> str:
    """Return the name of what decoding these samples in this way gives.

    Waits a moment where a file was changed just now.

    Raises:
        DataError: a file is gone.
    """
    files, wait_ns = _status(parts)
    if wait_ns > 0:
        time.sleep(wait_ns / 1e9)
        files, _ = _status(parts)
    what = {
        "format": FORMAT,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "gray": data.is_input_gray,
        "reading": [
            [(step.name, step.value, step.is_exact) for step in part.reading] for part in steps
        ],
        "target_is_mask": data.target_is_mask,
        "mask_values": data.mask_values,
        "mask_threshold": data.mask_threshold,
        "files": files,
        **({} if kind == "mask" else {"targets": kind, "patches": data.patches is not None}),
    }
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def _status(parts: Mapping[str, Sequence[Pair]]) -> tuple[list[Any], int]:
    """Return what identifies each file, and how long until nobody can change one unseen."""
    files: list[Any] = []
    newest = 0
    for part, pairs in parts.items():
        files.append(part)
        for pair in pairs:
            for path in (pair.input, pair.target):
                if path is not None:
                    status = _stat(path)
                    files.append(status)
                    newest = max(newest, *status[-2:])
    tick = clock_tick_ns(newest)
    return files, min(newest + tick - time.time_ns(), tick)


def clock_tick_ns(time_ns: int) -> int:
    """Return how coarse a file system's clock may be, by a time that it has given."""
    return FINE_TICK_NS if time_ns % 10**9 else COARSE_TICK_NS


def _stat(path: Path) -> tuple[str, int, int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return path.name, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns
