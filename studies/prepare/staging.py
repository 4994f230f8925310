"""Reads samples, checks them, and stages them as files, so that a killed run can go on.

Each finished sample is one line of a journal; a sample whose line and files are there, and whose
sources have not changed, is not read again.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from studies.prepare.samples import Found, Sample, Skipped
from studies.prepare.similarity import Thumbnail, thumbnail
from trainer.data.headers import read_header
from trainer.data.images import SUFFIXES, Array, read_image, read_mask
from trainer.data.reading import num_threads_of_worker
from trainer.data.room import ROOM
from trainer.data.spelling import find_clash, ignores_case
from trainer.errors import DataError
from trainer.rundir import aside_name

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Staged:
    """A sample that is read, checked and written."""

    sample: Sample
    image: Path
    mask: Path
    small: Thumbnail


def stage(
    found: Found,
    folder: Path,
    *,
    stop_on_error: bool,
    progress: Callable[[int, int], None],
) -> tuple[list[Staged], list[Skipped]]:
    """Write every sample into `folder`/{inputs,targets}, going on from an earlier run.

    Raises:
        DataError: a sample cannot be used and `stop_on_error` is set, or two have one name.
    """
    for name in ("inputs", "targets"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    clash = find_clash(sample.name for sample in found.samples)
    if clash is not None and ignores_case(folder):
        raise DataError(
            f"--out: the file system of {folder.parent} takes {clash[0]!r} and {clash[1]!r} for "
            "one name; rename one, or write to another disk"
        )
    earlier = _read_journal(folder / JOURNAL)
    staged: list[Staged] = []
    skipped: list[Skipped] = []
    pool = ThreadPoolExecutor(num_threads_of_worker())

    def one(sample: Sample) -> tuple[Staged | Skipped, bool]:
        known = _restore(sample, folder, earlier.get(sample.name))
        if known is not None:
            return known, False
        try:
            return _write(sample, folder, found.num_classes), True
        except DataError as error:
            if stop_on_error:
                raise
            return Skipped(str(sample.sources[0]), str(error)), False

    try:
        with (folder / JOURNAL).open("a", encoding="utf-8") as journal:
            for done, (result, is_new) in enumerate(pool.map(one, found.samples), 1):
                if isinstance(result, Skipped):
                    skipped.append(result)
                else:
                    staged.append(result)
                if isinstance(result, Staged) and is_new:
                    journal.write(json.dumps(_entry(result)) + "\n")
                    journal.flush()
                progress(done, len(found.samples))
    finally:
        pool.shutdown(cancel_futures=True)
    return staged, skipped


def key_of(sample: Sample) -> str:
    """Return what changes when a source file changes."""
    stats = [path.stat() for path in sample.sources]
    return " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)


def _read_journal(path: Path) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # the last may be torn
                entry = json.loads(line)
                entries[entry["name"]] = entry
    return entries


def _entry(staged: Staged) -> dict[str, str]:
    return {
        "name": staged.sample.name,
        "key": key_of(staged.sample),
        "image": staged.image.name,
        "mask": staged.mask.name,
        "small": base64.b64encode(staged.small.tobytes()).decode(),
    }


def _restore(sample: Sample, folder: Path, entry: dict[str, Any] | None) -> Staged | None:
    if entry is None or entry["key"] != key_of(sample):
        return None
    image, mask = folder / "inputs" / entry["image"], folder / "targets" / entry["mask"]
    if not image.is_file() or not mask.is_file():
        return None
    small = np.frombuffer(base64.b64decode(entry["small"]), dtype=np.uint8).reshape(32, 32)
    return Staged(sample, image, mask, small)


def _write(sample: Sample, folder: Path, num_classes: int | None) -> Staged:
    headers = [read_header(path) for path in sample.sources if path.suffix.lower() in SUFFIXES]
    with ROOM.of(*headers):
        return _stage(sample, folder, num_classes)


def _stage(sample: Sample, folder: Path, num_classes: int | None) -> Staged:
    content = sample.read()
    gray = _gray(content.image)
    mask = read_mask(content.mask) if isinstance(content.mask, Path) else content.mask
    where = sample.sources[-1]
    if mask.shape != gray.shape:
        raise DataError(
            f"{where}: the mask is {mask.shape[0]}x{mask.shape[1]}, its image "
            f"{gray.shape[0]}x{gray.shape[1]} (height x width)"
        )
    _check_values(mask, num_classes, where)
    image_file = _put(content.image, folder / "inputs" / sample.name)
    mask_file = _put(content.mask, folder / "targets" / sample.name)
    return Staged(sample, image_file, mask_file, thumbnail(gray))


def _gray(image: Path | Array) -> Array:
    """Return (H, W) uint8 for the thumbnail; reading a file whole is also its check."""
    pixels = read_image(image, gray=True)[:, :, 0] if isinstance(image, Path) else image
    if pixels.ndim == 3:
        pixels = pixels[:, :, 0]
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def _check_values(mask: Array, num_classes: int | None, where: Path) -> None:
    if num_classes is None:
        return
    allowed = (0, 255) if num_classes == 2 else tuple(range(num_classes))
    strange = sorted(set(np.unique(mask).tolist()) - set(allowed))
    if strange:
        expected = "{0, 255}" if num_classes == 2 else f"0 to {num_classes - 1}"
        raise DataError(
            f"{where}: mask values {', '.join(map(str, strange[:8]))}; expected {expected}"
        )


def _put(content: Path | Array, target: Path) -> Path:
    """Write a file aside and rename it; return where it is."""
    suffix = content.suffix.lower() if isinstance(content, Path) else ".png"
    path = target.with_name(target.name + suffix)
    aside = aside_name(path)
    if isinstance(content, Path):
        shutil.copyfile(content, aside)
    else:
        # imencode, not imwrite: imwrite says False for a full disk, and nothing more
        aside.write_bytes(cv2.imencode(".png", content)[1].tobytes())
    aside.replace(path)
    return path
