"""Finds a data folder's images and masks, and checks all of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from hpo.errors import UsageError
from trainer.data.images import Pair, list_samples, read_image
from trainer.data.reading import read_checked_mask
from trainer.data.survey import MaskCoding, count_values, decide_coding
from trainer.errors import DataError
from trainer.rundir import write_atomic

NOT_SURVEYED = "not surveyed"  # the fingerprint of data that only a --dry-run may do without
HEAD_BYTES = 65536  # hashed of each file, besides name and size: enough to tell data sets apart


@dataclass(frozen=True)
class Part:
    """A folder of inputs and a folder of masks, relative to the data folder."""

    inputs: PurePosixPath
    targets: PurePosixPath


def _part(inputs: str, targets: str) -> Part:
    return Part(PurePosixPath(inputs), PurePosixPath(targets))


# The tutorials' three layouts, and the two words that other people use for the same.
LAYOUTS: tuple[tuple[Part, Part], ...] = (
    (_part("train/inputs", "train/targets"), _part("test/inputs", "test/targets")),
    (_part("train_image", "train_mask"), _part("test_image", "test_mask")),
    (_part("training/inputs", "training/masks"), _part("testing/inputs", "testing/masks")),
    (_part("train/images", "train/masks"), _part("test/images", "test/masks")),
)


@dataclass(frozen=True)
class DataFolder:
    """A data set on disk.

    Attributes:
        root: the folder that `--data` names.
        train: where its training images are.
        test: where its test images are, if there are any.
        follow_symlinks: whether images may be links to files elsewhere.
    """

    root: Path
    train: Part
    test: Part | None
    follow_symlinks: bool = False


def find_data(root: Path, *, needs_test: bool) -> DataFolder:
    """Recognise the layout of a data folder.

    Raises:
        UsageError: no such folder, no known layout in it, or half of one.
    """
    if not root.is_dir():
        raise UsageError(f"--data: no such folder: {root}")
    for train, test in LAYOUTS:
        if not (root / train.inputs).is_dir() and not (root / train.targets).is_dir():
            continue
        has_test = (root / test.inputs).is_dir() or (root / test.targets).is_dir()
        parts = (train, test) if has_test or needs_test else (train,)
        for folder in (folder for part in parts for folder in (part.inputs, part.targets)):
            if not (root / folder).is_dir():
                raise UsageError(
                    f"--data: {root} has no folder {folder}/"
                    + (
                        "; or select on a part of the training set with --select-on validation"
                        if folder in (test.inputs, test.targets)
                        else ""
                    )
                )
        return DataFolder(root, train, test if has_test else None)
    first = LAYOUTS[0][0]
    raise UsageError(
        f"--data: {root} has neither {first.inputs}/ nor {first.targets}/; expected "
        "{train,test}/{inputs,targets}/ (images/masks, or train_image/train_mask, are fine too)"
    )


@dataclass(frozen=True)
class DataSurvey:
    """What reading every image and mask once has found.

    Attributes:
        num_train, num_test: pairs in each part.
        is_gray: every input has equal channels, so one channel holds all there is.
        coding: what the mask values mean.
        fingerprint: hash of file names, sizes and contents' heads.
        sizes: (H, W) of the smallest and the largest image.
        values: part -> image -> pixels per stored value of its mask; empty if not surveyed.
    """

    num_train: int
    num_test: int
    is_gray: bool
    coding: MaskCoding
    fingerprint: str
    sizes: tuple[tuple[int, int], tuple[int, int]]
    values: Mapping[str, Mapping[str, Mapping[int, int]]] = field(default_factory=dict)


def survey_data(
    folder: DataFolder,
    *,
    cache: Path,
    mask_values: tuple[int, ...] | None = None,
    mask_threshold: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> DataSurvey:
    """Read every image and mask once, so that no trial meets a broken one.

    The result is kept in `cache` and used again as long as the files' fingerprint is the same.

    Raises:
        DataError: an image or a mask that cannot be used (see `trainer.data`).
    """
    train = list_pairs(folder, folder.train, "train ")
    test = list_pairs(folder, folder.test, "test ") if folder.test else []
    fingerprint = _fingerprint(folder.root, [*train, *test])
    found = _read_cache(cache, fingerprint)
    if found is None:
        found = _read_all([*train, *test], progress)
        entry = {"fingerprint": fingerprint, **asdict(found), "counts": list(found.counts.items())}
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cache, json.dumps(entry))
    coding = decide_coding(
        found.counts,
        where=str(folder.root / folder.train.targets),
        mask_values=mask_values,
        mask_threshold=mask_threshold,
    )
    if len(found.counts) < 2:
        raise DataError(
            f"{folder.root / folder.train.targets}: every pixel of every mask is "
            f"{next(iter(found.counts))}; there is nothing to segment"
        )
    names = iter(found.values)
    values = {
        part: {pair.name: dict(next(names)) for pair in pairs}
        for part, pairs in (("train", train), ("test", test))
    }
    sizes = (found.smallest, found.largest)
    return DataSurvey(len(train), len(test), found.is_gray, coding, fingerprint, sizes, values)


@dataclass(frozen=True)
class _Found:
    is_gray: bool
    counts: Counter[int]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    values: list[list[tuple[int, int]]]  # of each mask, in order


def list_pairs(folder: DataFolder, part: Part, key: str) -> list[Pair]:
    return list_samples(
        folder.root / part.inputs,
        folder.root / part.targets,
        key,
        follow_symlinks=folder.follow_symlinks,
    )


def _read_all(pairs: Sequence[Pair], progress: Callable[[int, int], None]) -> _Found:
    counts: Counter[int] = Counter()
    is_gray = True
    sizes, of_masks = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (gray, values, size) in enumerate(pool.map(_read_pair, pairs), 1):
            is_gray &= gray
            counts.update(values)
            sizes.append(size)
            of_masks.append(sorted(values.items()))
            progress(done, len(pairs))
    return _Found(is_gray, counts, min(sizes), max(sizes), of_masks)


def _read_pair(pair: Pair) -> tuple[bool, Counter[int], tuple[int, int]]:
    image = read_image(pair.input, gray=False)
    height, width = image.shape[:2]
    mask = read_checked_mask(pair, (height, width))
    is_gray = bool((image == image[:, :, :1]).all())
    return is_gray, count_values(mask), (height, width)


def _read_cache(cache: Path, fingerprint: str) -> _Found | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        entry = json.loads(cache.read_text(encoding="utf-8"))
        if entry["fingerprint"] == fingerprint:
            counts = Counter({int(value): int(count) for value, count in entry["counts"]})
            smallest, largest = tuple(entry["smallest"]), tuple(entry["largest"])
            values = [[(int(v), int(n)) for v, n in mask] for mask in entry["values"]]
            return _Found(bool(entry["is_gray"]), counts, smallest, largest, values)
    return None


def _fingerprint(root: Path, pairs: Sequence[Pair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        for path in (pair.input, pair.target):
            assert path is not None
            try:
                with path.open("rb") as file:
                    head, size = file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from None
            name = path.relative_to(root).as_posix()
            digest.update(f"{name}\0{size}\0".encode())
            digest.update(hashlib.sha256(head).digest())
    return digest.hexdigest()[:16]
