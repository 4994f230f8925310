"""Recognises folders as people have them, and says how to prepare them for a search."""

from __future__ import annotations

import glob
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

from trainer.data.images import SUFFIXES

MASK_WORDS = re.compile(r"mask|seg|label|annot|target|gt|manual|truth", re.IGNORECASE)
MAX_FILES = 2000  # of a folder are looked at
MIN_SHARE = 0.9  # of the images must have a mask


def suggest(root: Path) -> str | None:
    """Return the command that makes a data folder of this one, None where nothing fits.

    Images and masks are told apart by words in the names of folders or files, and paired by what
    differs from name to name.
    """
    folders = [root, *sorted(p for p in root.iterdir() if p.is_dir() and p.name[0] != ".")]
    groups = [group for folder in folders for group in _groups(folder)]
    best: tuple[float, str, str] | None = None
    for images, masks in permutations(groups, 2):
        if not masks.is_mask or images.is_mask:
            continue
        share = len(images.ids & masks.ids) / len(images.ids)
        if share >= MIN_SHARE and (best is None or share > best[0]):
            best = (share, images.pattern, masks.pattern)
    if best is None:
        return None
    inputs, targets = (shlex.quote(pattern) for pattern in best[1:])
    return f"rml-data prepare folder --inputs {inputs} --targets {targets} --out data"


class _Group:
    """Files of one folder whose names differ in one place."""

    def __init__(self, folder: Path, stems: Sequence[str], suffix: str) -> None:
        start = re.sub(r"\d+$", "", _common_start(stems))
        ends = [stem[len(start) :][::-1] for stem in stems]
        end = re.sub(r"^\d+", "", _common_start(ends)[::-1])
        self.ids = frozenset(stem[len(start) : len(stem) - len(end)] for stem in stems)
        start_and_end = (glob.escape(start), glob.escape(end + suffix))
        self.pattern = f"{glob.escape(str(folder))}/{'{id}'.join(start_and_end)}"
        self.is_mask = bool(MASK_WORDS.search(folder.name) or MASK_WORDS.search(start + end))


def _common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    length = next((i for i, c in enumerate(first) if last[i : i + 1] != c), len(first))
    return first[:length]


def _groups(folder: Path) -> list[_Group]:
    """Sort a folder's images by what of their names is no number."""
    try:
        paths = sorted(folder.iterdir())[:MAX_FILES]
    except OSError:  # not ours to read
        return []
    files = [path for path in paths if path.suffix.lower() in SUFFIXES]
    by_kind: dict[tuple[str, bool], list[Path]] = {}
    for path in files:
        key = (path.suffix, bool(MASK_WORDS.search(path.stem)))
        by_kind.setdefault(key, []).append(path)
    return [
        _Group(folder, [path.stem for path in alike], suffix)
        for (suffix, _), alike in by_kind.items()
        if len(alike) > 1 and Counter(path.stem for path in alike).most_common(1)[0][1] == 1
    ]
