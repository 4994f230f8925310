"""Finds images and masks in folders and pairs them by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data.decoding import Array, opencv_reason, read_image, read_mask
from trainer.data.headers import MAX_PIXELS
from trainer.errors import DataError

__all__ = [
    "MASK_ENDINGS",
    "MAX_PIXELS",
    "SUFFIXES",
    "Array",
    "Pair",
    "list_images",
    "list_samples",
    "opencv_reason",
    "read_image",
    "read_mask",
    "refuse_foreign_links",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MASK_ENDINGS = ("", "_mask", "_segmentation", "_seg", "_gt")
NUM_NAMES_SHOWN = 10


@dataclass(frozen=True)
class Pair:
    """An image and, where it is known, its mask."""

    input: Path
    target: Path | None = None

    @property
    def name(self) -> str:
        """The input's file name: how logs and predictions call the sample."""
        return self.input.name


def list_images(folder: Path, key: str, *, follow_symlinks: bool = False) -> list[Path]:
    """Return the image files of a folder, sorted by name; other files are left alone.

    The folder itself may be a link. Links in it to files elsewhere are followed only if asked.

    Raises:
        DataError: no such folder, no image in it, or a link that leaves it; names `key`, the
            config's key for it.
    """
    if not folder.is_dir():
        raise DataError(f"{key}: no such folder: {folder}")
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise DataError(f"{key}: no image in {folder}; expected {', '.join(SUFFIXES)}")
    if not follow_symlinks:
        refuse_foreign_links(files, folder, key)
    return files


def refuse_foreign_links(files: Iterable[Path], folder: Path, key: str) -> None:
    """Refuse symbolic links that leave a folder: a data set from elsewhere could bring them.

    Raises:
        DataError: names the link, `key` and the remedy.
    """
    root = folder.resolve()
    for path in files:
        if path.is_symlink():
            try:
                target = path.resolve()
            except (OSError, RuntimeError):  # a circle of links; Python 3.11 says RuntimeError
                target = path.readlink()
            if not target.is_relative_to(root):
                raise DataError(
                    f"{key}: {path} is a link that leaves the folder, to {target}; put the file "
                    "itself there, or set data.follow_symlinks to true"
                )


def list_samples(
    input_dir: Path, target_dir: Path | None, key: str, *, follow_symlinks: bool = False
) -> list[Pair]:
    """Pair each input with the mask of the same name (whatever the suffix, `_mask` allowed).

    Masks without an input are left alone, as a set's masks often cover more than one part.

    Raises:
        DataError: inputs without a mask, or with several; the first ten are named. Or what
            `list_images` raises.
    """
    inputs = list_images(input_dir, f"{key}input_path", follow_symlinks=follow_symlinks)
    _refuse_repeated_names(inputs)
    if target_dir is None:
        return [Pair(path) for path in inputs]
    by_stem: dict[str, list[Path]] = {}
    masks = list_images(target_dir, f"{key}target_path", follow_symlinks=follow_symlinks)
    for path in masks:
        by_stem.setdefault(path.stem, []).append(path)
    pairs, without = [], []
    for path in inputs:
        found = next(
            (by_stem[path.stem + end] for end in MASK_ENDINGS if path.stem + end in by_stem), []
        )
        if len(found) > 1:
            raise DataError(f"{path.name}: several masks: {_names(found)} in {target_dir}")
        if found:
            pairs.append(Pair(path, found[0]))
        else:
            without.append(path)
    if without:
        raise DataError(
            f"{len(without)} of {len(inputs)} images in {input_dir} have no mask of the same name "
            f"in {target_dir}: {_names(without)}; add the masks or move the images away"
        )
    return pairs


def _refuse_repeated_names(inputs: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in inputs:
        other = seen.setdefault(path.stem, path)
        if other is not path:
            raise DataError(
                f"{other.name} and {path.name} in {path.parent} differ in their suffix only; "
                "masks are found by name, so rename one of them"
            )


def _names(paths: Iterable[Path]) -> str:
    names = [path.name for path in paths]
    more = f", … ({len(names)} in all)" if len(names) > NUM_NAMES_SHOWN else ""
    return ", ".join(names[:NUM_NAMES_SHOWN]) + more
