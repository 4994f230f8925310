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

from hpo.dataset.content_hashes import MEMORY, Contents
from hpo.dataset.layouts import suggest, unread_parts
from hpo.dataset.near_duplicates import find_near_duplicates, thumbnail_of
from hpo.errors import UsageError
from studies.prepare.likeness import Thumbnail
from trainer.data.findings import Findings, Seen, see
from trainer.data.fingerprint import FORMAT
from trainer.data.headers import read_header
from trainer.data.images import Pair, list_samples, read_image
from trainer.data.reading import read_checked_mask
from trainer.data.survey import MaskCoding, count_values, decide_coding
from trainer.errors import DataError
from trainer.rundir import write_atomic

NOT_SURVEYED = "not surveyed"  # the fingerprint of data that only a --dry-run may do without
HASH_LENGTH = 20  # hexadecimal digits; 16 were those of the heads of files, in older studies


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
        + (f"; this makes such a folder: {command}" if (command := suggest(root)) else "")
    )


@dataclass(frozen=True)
class DataSurvey:
    """What reading every image and mask once has found.

    Attributes:
        num_train, num_test: pairs in each part.
        is_gray: every input has equal channels, so one channel holds all there is.
        coding: what the mask values mean.
        fingerprint: hash of the files' names and whole contents.
        sizes: (H, W) of the smallest and the largest image.
        values: part -> image -> pixels per stored value of its mask; empty if not surveyed.
        notes: what a user should know of the files, a line each.
        alike: stems of training images that show nearly the same, cluster by cluster.
    """

    num_train: int
    num_test: int
    is_gray: bool
    coding: MaskCoding
    fingerprint: str
    sizes: tuple[tuple[int, int], tuple[int, int]]
    values: Mapping[str, Mapping[str, Mapping[int, int]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    alike: tuple[tuple[str, ...], ...] = ()


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
    notes = [text for text in (unread_parts(folder.root),) if text]
    train = list_pairs(folder, folder.train, "train ", notes)
    test = list_pairs(folder, folder.test, "test ", notes) if folder.test else []
    fingerprint = _fingerprint(folder.root, [*train, *test], cache.with_name(MEMORY), progress)
    found = _read_cache(cache, fingerprint)
    if found is None:
        found = _read_all([*train, *test], len(train), progress)
        entry = {
            "fingerprint": fingerprint,
            "reading": FORMAT,
            **asdict(found),
            "counts": list(found.counts.items()),
        }
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
    return DataSurvey(
        len(train),
        len(test),
        found.is_gray,
        coding,
        fingerprint,
        (found.smallest, found.largest),
        values,
        (*notes, *found.notes),
        tuple(map(tuple, found.alike)),
    )


@dataclass(frozen=True)
class _Found:
    is_gray: bool
    counts: Counter[int]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    values: list[list[tuple[int, int]]]  # of each mask, in order
    notes: tuple[str, ...]
    alike: list[list[str]]


def list_pairs(
    folder: DataFolder, part: Part, key: str, notes: list[str] | None = None
) -> list[Pair]:
    """Return the images of a part with their masks.

    Args:
        folder: the data set.
        part: one of its parts.
        key: begins the names of folders in errors.
        notes: gets a line about each kind of files that no pair uses.

    Raises:
        DataError: what pairing raises.
    """
    return list_samples(
        folder.root / part.inputs,
        folder.root / part.targets,
        key,
        follow_symlinks=folder.follow_symlinks,
        notes=notes,
    )


def _read_all(
    pairs: Sequence[Pair], num_train: int, progress: Callable[[int, int], None]
) -> _Found:
    counts: Counter[int] = Counter()
    is_gray = True
    sizes, of_masks = [], []
    findings = Findings()
    depths: dict[int, str] = {}
    thumbnails: list[Thumbnail] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (gray, values, size, small, seen) in enumerate(pool.map(_read_pair, pairs), 1):
            if done <= num_train:
                thumbnails.append(small)
            findings.add(seen)
            depths.setdefault(seen.bits, seen.pair.name)
            is_gray &= gray
            counts.update(values)
            sizes.append(size)
            of_masks.append(sorted(values.items()))
            progress(done, len(pairs))
    if len(depths) > 1:
        found = ", ".join(f"{name} {bits}" for bits, name in sorted(depths.items()))
        raise DataError(
            f"some images have 8 bits a channel and some 16 ({found}); convert one kind"
        )
    clusters = find_near_duplicates([pair.stem for pair in pairs[:num_train]], thumbnails)
    notes = tuple(findings.notes())
    return _Found(is_gray, counts, min(sizes), max(sizes), of_masks, notes, clusters)


def _read_pair(pair: Pair) -> tuple[bool, Counter[int], tuple[int, int], Thumbnail, Seen]:
    assert pair.target is not None
    headers = read_header(pair.input), read_header(pair.target)
    image = read_image(pair.input, gray=False, header=headers[0])
    height, width = image.shape[:2]
    mask = read_checked_mask(pair, (height, width), headers[1])
    is_gray = bool((image == image[:, :, :1]).all())
    seen = see(pair, *headers, mask, bits=8 * image.dtype.itemsize)
    return is_gray, count_values(mask), (height, width), thumbnail_of(image), seen


def _read_cache(cache: Path, fingerprint: str) -> _Found | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        entry = json.loads(cache.read_text(encoding="utf-8"))
        if entry["fingerprint"] == fingerprint and entry["reading"] == FORMAT:
            counts = Counter({int(value): int(count) for value, count in entry["counts"]})
            smallest, largest = tuple(entry["smallest"]), tuple(entry["largest"])
            values = [[(int(v), int(n)) for v, n in mask] for mask in entry["values"]]
            notes, clusters = tuple(entry["notes"]), entry["alike"]
            is_gray = bool(entry["is_gray"])
            return _Found(is_gray, counts, smallest, largest, values, notes, clusters)
    return None


def _fingerprint(
    root: Path, pairs: Sequence[Pair], memory: Path, progress: Callable[[int, int], None]
) -> str:
    """Return a hash of names and contents, so of what the data are."""
    files = [path for pair in pairs for path in (pair.input, pair.target) if path is not None]
    digests = Contents(memory).digests(files, progress)
    whole = hashlib.sha256()
    for path in files:
        name = path.relative_to(root).as_posix()
        whole.update(f"{name}\0{digests[path]}\0".encode(errors="surrogateescape"))
    return whole.hexdigest()[:HASH_LENGTH]


def data_fingerprint(
    folder: DataFolder, memory: Path, progress: Callable[[int, int], None]
) -> str:
    """Return what `DataSurvey.fingerprint` is of a data folder, without decoding its images.

    Raises:
        DataError: what pairing or reading the files raises.
    """
    pairs = list_pairs(folder, folder.train, "train ")
    pairs += list_pairs(folder, folder.test, "test ") if folder.test else []
    return _fingerprint(folder.root, pairs, memory, progress)


def refuse_other_images(root: Path, recorded: str, found: str) -> None:
    """Refuse images that a study was not made with.

    Raises:
        UsageError: the hashes differ, perhaps as an older version made another kind of them.
    """
    if found != recorded:
        raise UsageError(
            f"--data {root}: not the images that the study was made with"
            + (
                ", or it was made by an older version, which looked at the heads of files only; "
                "search again under another --study-name"
                if len(recorded) < HASH_LENGTH
                else ""
            )
        )
