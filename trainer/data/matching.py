"""Finds each image's mask among the files of a folder, and says which files nothing uses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MASK_ENDINGS = ("", "_mask", "_segmentation", "_seg", "_gt")
NUM_NAMES_SHOWN = 10
# One of several masks of an image, as BUSI has them: a_mask_1.png beside a_mask.png.
_NUMBERED = re.compile(r"(.+?)(?:_mask|_segmentation|_seg|_gt)[ _-]?\d+", re.DOTALL)


@dataclass(frozen=True)
class Pair:
    """An image and, where it is known, its mask.

    Attributes:
        folder, target_folder: where they were searched; None: the one that the file is in.
    """

    input: Path
    target: Path | None = None
    folder: Path | None = None
    target_folder: Path | None = None

    @property
    def name(self) -> str:
        """The input's path in its folder: how logs and predictions call the sample."""
        return relative(self.input, self.folder)

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self.name.removesuffix(self.input.suffix)

    @property
    def target_name(self) -> str:
        """The target's path in its folder."""
        assert self.target is not None
        return relative(self.target, self.target_folder)


def relative(path: Path, folder: Path | None) -> str:
    """Return a path below a folder, with slashes."""
    return path.name if folder is None else path.relative_to(folder).as_posix()


@dataclass
class Matching:
    """What belongs together.

    Attributes:
        pairs: images with their one mask.
        alone: images without a mask.
        several: images that more than one mask may belong to, with these.
        unused: masks that no image uses.
    """

    pairs: list[Pair] = field(default_factory=list)
    alone: list[Path] = field(default_factory=list)
    several: list[tuple[Path, list[Path]]] = field(default_factory=list)
    unused: list[Path] = field(default_factory=list)


def match_masks(
    inputs: Sequence[Path], masks: Sequence[Path], input_dir: Path, target_dir: Path
) -> Matching:
    """Pair each input with the mask of the same name (whatever the suffix, `_mask` allowed).

    An image is never its own mask. Where images and masks are in one folder, a file is a mask if
    it is named after another.
    """
    by_key: dict[str, list[Path]] = {}
    for path in masks:
        by_key.setdefault(_key(path, target_dir), []).append(path)
    if input_dir.resolve() == target_dir.resolve():
        inputs = [path for path in inputs if not _is_named_after(_key(path, input_dir), by_key)]
    keys = {_key(path, input_dir) for path in inputs}
    numbered: dict[str, list[Path]] = {}
    for key, paths in by_key.items():
        match = _NUMBERED.fullmatch(key)
        if match is not None and key not in keys:
            numbered.setdefault(match[1], []).extend(paths)
    result = Matching()
    used: set[Path] = set()
    for path in inputs:
        key = _key(path, input_dir)
        found = [
            mask
            for end in MASK_ENDINGS
            if not end or key + end not in keys
            for mask in by_key.get(key + end, ())
        ]
        real = path.resolve()
        found = [mask for mask in [*found, *numbered.get(key, ())] if mask.resolve() != real]
        used.update(found)
        if len(found) > 1:
            result.several.append((path, found))
        elif found:
            result.pairs.append(Pair(path, found[0], input_dir, target_dir))
        else:
            result.alone.append(path)
    taken = used.union(inputs)
    result.unused = [path for path in masks if path not in taken]
    return result


def _key(path: Path, folder: Path) -> str:
    return relative(path, folder).removesuffix(path.suffix)


def _is_named_after(key: str, keys: Iterable[str]) -> bool:
    numbered = _NUMBERED.fullmatch(key)
    names = [key.removesuffix(end) for end in MASK_ENDINGS if end and key.endswith(end)]
    return any(name in keys for name in [*names, *([numbered[1]] if numbered else [])])


def named(paths: Sequence[Path], folder: Path | None = None) -> str:
    """Name some files."""
    names = [relative(path, folder) for path in paths[:NUM_NAMES_SHOWN]]
    more = f", … ({len(paths)} in all)" if len(paths) > NUM_NAMES_SHOWN else ""
    return ", ".join(names) + more


def counted_by_suffix(paths: Iterable[Path]) -> str:
    """Count files by their suffix; of files without one only DICOM are known."""
    suffixes = (path.suffix.lower() for path in paths)
    counts = Counter(
        s if s and not s[1:].isdecimal() else "DICOM without suffix" for s in suffixes
    )
    return ", ".join(f"{number} {suffix}" for suffix, number in sorted(counts.items()))
