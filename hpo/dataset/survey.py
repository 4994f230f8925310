"""Checks all images and masks of a data folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hpo.dataset.content_hashes import Contents
from hpo.dataset.datafolder import DataFolder, Part, unread_parts
from hpo.dataset.near_duplicates import find_near_duplicates, thumbnail_of
from hpo.errors import UsageError
from hpo.folders import CONTENTS
from studies.prepare.similarity import Thumbnail
from trainer.data.bands import is_gray
from trainer.data.findings import Findings, Seen, describe_depths, see
from trainer.data.fingerprint import FORMAT
from trainer.data.headers import read_header
from trainer.data.images import Pair, list_samples, read_image
from trainer.data.reading import read_checked_mask
from trainer.data.room import ROOM
from trainer.data.survey import MaskCoding, count_values, decide_coding
from trainer.errors import DataError
from trainer.rundir import write_atomic

NOT_SURVEYED = "not surveyed"  # the fingerprint of data that only a --dry-run may do without
HASH_LENGTH = 20  # hexadecimal digits; 16 were those of the heads of files, in older studies


@dataclass(frozen=True)
class DataSurvey:
    """What reading every image and mask once has found.

    Attributes:
        num_train, num_test: pairs in each part.
        is_gray: every input has equal channels, so one channel holds all there is.
        coding: what the mask values mean.
        fingerprint: hash of the training and test files' names and whole contents.
        sizes: (H, W) of the smallest and the largest image.
        values: part -> image -> pixels per stored value of its mask; empty if not surveyed.
        notes: what a user should know of the files, a line each.
        alike: stems of training images that show nearly the same, cluster by cluster.
        num_validation: pairs in the data folder's own validation part, where that is used.
        validation_fingerprint: hash of that part's files.
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
    num_validation: int = 0
    validation_fingerprint: str = ""


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
    notes = [text for text in (unread_parts(folder),) if text]
    parts = {
        name: list_pairs(folder, part, f"{name} ", notes) if part else []
        for name, part in (
            ("train", folder.train),
            ("test", folder.test),
            ("validation", folder.validation),
        )
    }
    train, pairs = parts["train"], [pair for part in parts.values() for pair in part]
    memory = cache.with_name(CONTENTS)
    digests = Contents(memory).digests(_files(pairs), progress)
    fingerprint = _fingerprint(folder.root, [*train, *parts["test"]], digests)
    of_validation = _fingerprint(folder.root, parts["validation"], digests)
    key = f"{fingerprint} {of_validation}" if parts["validation"] else fingerprint
    found = _read_cache(cache, key)
    if found is None:
        found = _read_all(pairs, len(train), progress)
        entry = {
            "fingerprint": key,
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
        name: {pair.name: dict(next(names)) for pair in part} for name, part in parts.items()
    }
    return DataSurvey(
        len(train),
        len(parts["test"]),
        found.is_gray,
        coding,
        fingerprint,
        (found.smallest, found.largest),
        values,
        (*notes, *found.notes),
        tuple(map(tuple, found.alike)),
        len(parts["validation"]),
        of_validation if parts["validation"] else "",
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
    findings.refuse_copies()
    if len(depths) > 1:
        raise DataError(describe_depths(depths))
    clusters = find_near_duplicates([pair.stem for pair in pairs[:num_train]], thumbnails)
    notes = tuple(findings.notes())
    return _Found(is_gray, counts, min(sizes), max(sizes), of_masks, notes, clusters)


def _read_pair(pair: Pair) -> tuple[bool, Counter[int], tuple[int, int], Thumbnail, Seen]:
    assert pair.target is not None
    headers = read_header(pair.input), read_header(pair.target)
    with ROOM.of(*headers):
        image = read_image(pair.input, gray=False, header=headers[0])
        height, width = image.shape[:2]
        mask = read_checked_mask(pair, (height, width), headers[1])
        seen = see(pair, headers, image, mask)
        return is_gray(image), count_values(mask), (height, width), thumbnail_of(image), seen


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


def _files(pairs: Sequence[Pair]) -> list[Path]:
    return [path for pair in pairs for path in (pair.input, pair.target) if path is not None]


def _fingerprint(root: Path, pairs: Sequence[Pair], digests: Mapping[Path, str]) -> str:
    """Return a hash of names and contents, so of what the data are."""
    whole = hashlib.sha256()
    for path in _files(pairs):
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
    digests = Contents(memory).digests(_files(pairs), progress)
    return _fingerprint(folder.root, pairs, digests)


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
