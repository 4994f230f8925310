"""Finds images and masks in folders, pairs them by name, and reads them with OpenCV."""

from __future__ import annotations

import logging
import stat
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, ImageFileDirectory_v2

from trainer.errors import DataError

Array = NDArray[Any]  # uint8 or uint16, as stored in the file

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MAX_PIXELS = 2**28  # 16,384 x 16,384: beyond that a file is a mistake or an attack
MASK_ENDINGS = ("", "_mask", "_segmentation", "_seg", "_gt")
NUM_NAMES_SHOWN = 10
# Pillow warns from a third of our limit on and refuses below it; we look at the size ourselves.
Image.MAX_IMAGE_PIXELS = None
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
BIG_TIFF = (b"+\0", b"\0+")  # 43 in either order of bytes
# What is wrong with a file is said by our own line, with its name.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())


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


def read_image(path: Path, *, gray: bool) -> Array:
    """Read an input as OpenCV does: (H, W, 3) in BGR order, or (H, W, 1); 8 or 16 bits.

    Raises:
        DataError: the file is empty, broken or not an image.
    """
    _check_header(path)
    flag = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR
    image = _decode(path, flag | cv2.IMREAD_ANYDEPTH)
    return image[:, :, np.newaxis] if image.ndim == 2 else image


def read_mask(path: Path) -> Array:
    """Read a mask as its stored values, (H, W): palette images give their indices.

    Raises:
        DataError: the file is broken, or its channels differ (a mask of colours).
    """
    _check_header(path)
    palette = _palette_indices(path)
    mask = palette if palette is not None else _decode(path, cv2.IMREAD_UNCHANGED)
    if mask.ndim == 3:
        colours = mask[:, :, :3]
        if mask.shape[2] == 2 or (colours != colours[:, :, :1]).any():
            raise DataError(
                f"{path}: the mask is coloured ({mask.shape[2]} channels that differ); "
                "expected one value a pixel, the class"
            )
        mask = mask[:, :, 0]
    return np.ascontiguousarray(mask)


def _palette_indices(path: Path) -> Array | None:
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode != "P":
                return None
            return np.asarray(image, dtype=np.uint8)
    except UnidentifiedImageError:
        return None  # a TIFF that only OpenCV knows
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  (Pillow raises whatever the bytes lead it to)
        raise _broken(path, str(error)) from None


def _decode(path: Path, flags: int) -> Array:
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"{path}: {error.err}") from None
        raise _broken(path, opencv_reason(error) or "OpenCV refused it") from None
    if image is None:
        raise _broken(path, "OpenCV cannot decode it")
    if image.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path}: pixels are {image.dtype}; expected 8 or 16 bits a channel")
    return image


def _check_header(path: Path) -> None:
    """Look at kind and size before decoding: a few kB can hold what takes gigabytes of memory.

    OpenCV knows more kinds than a data set needs, some of which allocate before they look.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise DataError(f"{path}: not a file; move it away")
    if status.st_size == 0:
        raise _broken(path, "the file is empty")
    try:
        width, height = _size_in_header(path)
    except Exception:  # noqa: BLE001  (Pillow raises whatever the bytes lead it to)
        raise _broken(path, "no PNG, JPEG, TIFF or BMP, whatever its name") from None
    if width * height > MAX_PIXELS:
        raise DataError(f"{path}: {width * height:,} pixels; more than {MAX_PIXELS:,} are refused")


def _size_in_header(path: Path) -> tuple[int, int]:
    """Return width and height, by the header alone."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.width, image.height
    except UnidentifiedImageError:
        # Pillow does not know every TIFF that OpenCV does, but where its size stands.
        with path.open("rb") as file:
            head = file.read(8)
            tags = ImageFileDirectory_v2(head + file.read(8) if head[2:4] in BIG_TIFF else head)
            file.seek(tags.next)
            tags.load(file)
        return int(tags[IMAGEWIDTH]), int(tags[IMAGELENGTH])


def opencv_reason(error: cv2.error) -> str:
    """Return what OpenCV says of an error, which may be several lines, in one."""
    return " ".join(error.err.split())


def _broken(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: not a readable image ({reason}); replace or remove it")
