"""Finds images and masks in folders and pairs them by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from trainer.data.decoding import Array, opencv_reason, read_image, read_mask
from trainer.data.dicom import is_dicom
from trainer.data.folders import refuse_foreign_links, walk
from trainer.data.headers import MAX_PIXELS, SUFFIXES_OF
from trainer.data.matching import (
    MASK_ENDINGS,
    Matching,
    Pair,
    counted_by_suffix,
    match_masks,
    named,
    relative,
)
from trainer.errors import DataError

__all__ = [
    "MASK_ENDINGS",
    "MAX_PIXELS",
    "SUFFIXES",
    "Array",
    "Pair",
    "list_images",
    "list_samples",
    "match_folders",
    "opencv_reason",
    "read_image",
    "read_mask",
    "refuse_foreign_links",
]

SUFFIXES = tuple(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)
# Images and volumes that other programs know: whoever has put one here meant it to be read.
OTHER_IMAGES = frozenset({
    ".webp", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".pgm", ".ppm", ".pbm",
    ".tga", ".psd", ".svg", ".exr", ".hdr", ".dcm", ".dicom", ".nii", ".gz", ".mha", ".mhd",
    ".nrrd", ".svs", ".ndpi", ".czi", ".npy", ".npz", ".mat",
}).difference(SUFFIXES)  # fmt: skip


def list_images(
    folder: Path, key: str, *, follow_symlinks: bool = False, notes: list[str] | None = None
) -> list[Path]:
    """Return the image files of a folder and the folders in it, sorted; others are left alone.

    The folder itself may be a link. Links in it to files elsewhere are followed only if asked.

    Args:
        folder: the folder.
        key: the config's key for it, for errors.
        follow_symlinks: follow links that leave the folder.
        notes: gets a line about images of kinds that are not read.

    Raises:
        DataError: no such folder, no image in it, or a link that leaves it.
    """
    if not folder.is_dir():
        hint = ""
        if key.startswith("data."):
            targets = key.replace("input_path", "target_path")
            masks = "" if targets == key else f" (masks: --set {targets}=FOLDER)"
            hint = f"; if it is elsewhere now, add --set {key}=FOLDER{masks}"
        raise DataError(f"{key}: no such folder: {folder}{hint}")
    all_files = walk(folder, key, follow_symlinks=follow_symlinks)
    files = [path for path in all_files if path.suffix.lower() in SUFFIXES]
    others = [p for p in all_files if p.suffix.lower() in OTHER_IMAGES or is_dicom(p)]
    if not files:
        there = f", only {counted_by_suffix(others)}" if others else ""
        raise DataError(f"{key}: no image in {folder}{there}; expected {', '.join(SUFFIXES)}")
    for path in files:
        _refuse_undecodable(path, folder, key)
    if not follow_symlinks:
        refuse_foreign_links(files, folder, key)
    if others and notes is not None:
        notes.append(f"images that are not read: {counted_by_suffix(others)} in {folder}")
    return files


def list_samples(
    input_dir: Path,
    target_dir: Path | None,
    key: str,
    *,
    follow_symlinks: bool = False,
    notes: list[str] | None = None,
    own_targets: bool = False,
) -> list[Pair]:
    """Pair each input with the mask of the same name (whatever the suffix, `_mask` allowed).

    Masks without an input are left alone, as a set's masks often cover more than one part.

    Args:
        input_dir, target_dir: where images and masks are; may be one folder.
        key: the start of the config's keys for them.
        follow_symlinks: follow links that leave the folders.
        notes: gets a line about what is not used.
        own_targets: in one folder where no image has a mask, each is its own target.

    Raises:
        DataError: inputs without a mask, or with several; the first ten are named. Or what
            `list_images` raises.
    """
    if target_dir is None:
        inputs = list_images(
            input_dir, f"{key}input_path", follow_symlinks=follow_symlinks, notes=notes
        )
        _refuse_repeated_names(inputs, input_dir)
        return [Pair(path, folder=input_dir) for path in inputs]
    found = match_folders(input_dir, target_dir, key, follow_symlinks=follow_symlinks, notes=notes)
    if found.unused and notes is not None:
        notes.append(
            f"masks of no image, not used: {named(found.unused, target_dir)} in {target_dir}"
        )
    _refuse_repeated_names([pair.input for pair in found.pairs], input_dir)
    if found.several:
        path, masks = found.several[0]
        raise DataError(
            f"{relative(path, input_dir)}: several masks: {named(masks, target_dir)} in "
            f"{target_dir}; keep one, or join them: rml-data prepare folder --help"
        )
    if own_targets and not found.pairs and input_dir.resolve() == target_dir.resolve():
        return [Pair(path, path, input_dir, input_dir) for path in found.alone]
    if found.alone:
        number = len(found.alone) + len(found.pairs)
        raise DataError(
            f"{len(found.alone)} of {number} images in {input_dir} have no mask of the same name "
            f"in {target_dir}: {named(found.alone, input_dir)}; add the masks or move the images "
            "away"
        )
    return found.pairs


def match_folders(
    input_dir: Path,
    target_dir: Path,
    key: str,
    *,
    follow_symlinks: bool = False,
    notes: list[str] | None = None,
) -> Matching:
    """Find out which mask belongs to which image; see `list_samples` for the arguments.

    Raises:
        DataError: what `list_images` raises.
    """
    inputs = list_images(
        input_dir, f"{key}input_path", follow_symlinks=follow_symlinks, notes=notes
    )
    is_one = input_dir.resolve() == target_dir.resolve()
    masks = list_images(
        target_dir,
        f"{key}target_path",
        follow_symlinks=follow_symlinks,
        notes=None if is_one else notes,
    )
    return match_masks(inputs, masks, input_dir, target_dir)


def _refuse_undecodable(path: Path, folder: Path, key: str) -> None:
    """Refuse a name that is no UTF-8, which neither HDF5 nor JSON can hold."""
    name = os.fsencode(relative(path, folder))
    try:
        name.decode()
    except UnicodeDecodeError:
        shown = name.decode(errors="backslashreplace")
        raise DataError(
            f"{key}: {shown} in {folder}: its name is not UTF-8; rename it (convmv -f latin1 -t "
            "utf8 --notest does so for a folder)"
        ) from None


def _refuse_repeated_names(inputs: Sequence[Path], folder: Path) -> None:
    seen: dict[str, Path] = {}
    for path in inputs:
        other = seen.setdefault(relative(path, folder).removesuffix(path.suffix), path)
        if other is not path:
            raise DataError(
                f"{other.name} and {path.name} in {path.parent} differ in their suffix only; "
                "masks are found by name, so rename one of them"
            )
