"""Reads MNIST's four files: the digits and their labels, for training and for testing.

An idx file is a header (0, 0, the type of its numbers, the number of its axes, then the length of
each axis in 4 bytes, big-endian) and its numbers. Nothing is believed of it that the file's size
does not bear out.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.config import Data
from trainer.data.geometry import read_through
from trainer.data.images import Array
from trainer.data.imageset import ImageSet, LoadedData
from trainer.data.labels import LabelCoding
from trainer.data.transforms import plan_transforms
from trainer.errors import DataError

# The beginnings of the files' names. Between it and the rest stands "-" or ".", as published.
PARTS = {"train": "train", "test": "t10k"}
IMAGES, LABELS = "images", "labels"
NUM_AXES = {IMAGES: 3, LABELS: 1}
UNSIGNED_BYTE = 8
MAX_BYTES = 2**30  # of the numbers of one file: twenty times MNIST
MAX_RATIO = 1032  # deflate makes nothing smaller than that


def load_digits(data: Data, resolve: Callable[[str], Path]) -> LoadedData:
    """Read what a config of type mnist names.

    `input_path` is the folder with `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`,
    `test_input_path` that with the two files `t10k-…`, each perhaps with `.gz`; one folder may
    have all four.

    Raises:
        DataError: a file that is missing, or is not what its name says.
    """
    steps = plan_transforms(data)
    sets, labels = {}, {}
    for part, path in (("train", data.input_path), ("test", data.test_input_path)):
        if path is None:
            continue
        key = "data.input_path" if part == "train" else "data.test_input_path"
        images, labels[part] = read_part(resolve(path), part, key)
        try:
            rows = [read_through(row, steps[0].reading, nearest=False) for row in images]
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        names = tuple(f"{index:05d}" for index in range(len(images)))
        sets[part] = ImageSet(names, np.stack(rows), labels[part], *steps)
    shapes = {part: images.input_shape for part, images in sets.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(
            f"training images are {shapes['train']}, test images {shapes['test']}; add "
            '{"resize": [H, W]} to data.transforms'
        )
    coding = _coding(np.concatenate(list(labels.values())), data)
    return LoadedData(sets.get("train"), sets.get("test"), coding)


def _coding(labels: npt.NDArray[np.int64], data: Data) -> LabelCoding:
    num_classes = max(2, int(labels.max()) + 1)
    names = data.class_names or tuple(map(str, range(num_classes)))
    if len(names) < num_classes:
        raise DataError(
            f"data.class_names: {len(names)} names, and the labels go from 0 to {num_classes - 1}"
        )
    counts = Counter(labels.tolist())
    return LabelCoding("labels", len(names), (), counts, names, source="as labelled")


def read_part(folder: Path, part: str, key: str) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return the images of a part, (N, H, W, 1) of 8 bits, and the class of each, (N,).

    Raises:
        DataError: see `load_digits`.
    """
    images_file, labels_file = (_find(folder, part, what, key) for what in (IMAGES, LABELS))
    images, labels = read_idx(images_file, IMAGES), read_idx(labels_file, LABELS)
    if len(images) != len(labels):
        raise DataError(
            f"{labels_file}: {len(labels)} labels for the {len(images)} images of "
            f"{images_file.name}; the two are not of one set"
        )
    return images[..., np.newaxis], labels.astype(np.int64)


def _find(folder: Path, part: str, what: str, key: str) -> Path:
    name = f"{PARTS[part]}-{what}-idx{NUM_AXES[what]}-ubyte"
    spellings = [name, name.replace("-idx", ".idx")]
    if not folder.is_dir():
        raise DataError(f"{key}: no such folder: {folder}; of type mnist it has {name}")
    for spelling in spellings:
        for path in (folder / spelling, folder / f"{spelling}.gz"):
            if path.is_file():
                return path
    raise DataError(f"{key}: no {name} in {folder} (nor {name}.gz); type mnist reads that")


def read_idx(path: Path, what: str) -> Array:
    """Return the numbers of an idx file of images or labels.

    Raises:
        DataError: another kind of file, or another size than its header says.
    """
    num_axes = NUM_AXES[what]
    num_header = 4 + 4 * num_axes
    try:
        num_stored = path.stat().st_size
        is_packed = path.suffix == ".gz"
        with gzip.open(path) if is_packed else path.open("rb") as file:
            header = file.read(num_header)
            shape = _shape(header, path, what)
            num_wanted = math.prod(shape)
            num_possible = num_stored * MAX_RATIO if is_packed else num_stored - num_header
            if num_wanted > min(num_possible, MAX_BYTES):
                raise DataError(
                    f"{path}: the header says {'x'.join(map(str, shape))} {what}, "
                    f"and a file of {num_stored} bytes cannot hold them"
                    if num_wanted > num_possible
                    else f"{path}: {num_wanted} bytes of {what}; at most {MAX_BYTES} are read"
                )
            content = file.read(num_wanted + 1)  # never more than was just allowed, also of .gz
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path}: cannot be read ({reason})") from None
    if len(content) != num_wanted:
        fault = "is cut off" if len(content) < num_wanted else "goes on behind them"
        raise DataError(f"{path}: the header says {'x'.join(map(str, shape))} {what}, the file "
                        f"{fault}; fetch it again")  # fmt: skip
    return np.frombuffer(content, np.uint8).reshape(shape)


def _shape(header: bytes, path: Path, what: str) -> tuple[int, ...]:
    num_axes = NUM_AXES[what]
    expected = bytes((0, 0, UNSIGNED_BYTE, num_axes))
    if header[:4] != expected or len(header) < 4 + 4 * num_axes:
        raise DataError(
            f"{path}: no idx file of {what}: it begins with {header[:4].hex(' ') or 'nothing'}, "
            f"not with {expected.hex(' ')}"
        )
    shape = tuple(int.from_bytes(header[at : at + 4]) for at in range(4, len(header), 4))
    if 0 in shape:
        raise DataError(f"{path}: holds no {what}: its header says {'x'.join(map(str, shape))}")
    return shape
