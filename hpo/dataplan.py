"""Finds a data folder's images and masks, checks all of them, and splits off a validation part."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from hpo.contents import MEMORY, Contents, is_split_of, write_manifest
from hpo.errors import UsageError
from hpo.folders import replace_folder
from hpo.layouts import suggest, unread_parts
from hpo.likeness import find_alike, thumbnail_of
from studies.prepare.groups import read_groups
from studies.prepare.likeness import Thumbnail
from trainer.data.findings import Findings, Seen, see
from trainer.data.fingerprint import FORMAT
from trainer.data.headers import read_header
from trainer.data.images import Pair, list_samples, read_image
from trainer.data.reading import read_checked_mask
from trainer.data.survey import MaskCoding, count_values, decide_coding
from trainer.errors import DataError
from trainer.rundir import write_atomic

SPLIT_SEED = 0  # a constant: drivers of one study may have seeds of their own, never splits
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
        notes: what a user should know of the files, a line each.
        alike: stems of training images that show nearly the same, cluster by cluster.
    """

    num_train: int
    num_test: int
    is_gray: bool
    coding: MaskCoding
    fingerprint: str
    sizes: tuple[tuple[int, int], tuple[int, int]]
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
    train = _pairs(folder, folder.train, "train ", notes)
    test = _pairs(folder, folder.test, "test ", notes) if folder.test else []
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
    sizes = (found.smallest, found.largest)
    return DataSurvey(
        len(train),
        len(test),
        found.is_gray,
        coding,
        fingerprint,
        sizes,
        (*notes, *found.notes),
        tuple(map(tuple, found.alike)),
    )


@dataclass(frozen=True)
class _Found:
    is_gray: bool
    counts: Counter[int]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    notes: tuple[str, ...]
    alike: list[list[str]]


def _pairs(folder: DataFolder, part: Part, key: str, notes: list[str] | None = None) -> list[Pair]:
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
    sizes = []
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
            progress(done, len(pairs))
    if len(depths) > 1:
        found = ", ".join(f"{name} {bits}" for bits, name in sorted(depths.items()))
        raise DataError(
            f"some images have 8 bits a channel and some 16 ({found}); convert one kind"
        )
    clusters = find_alike([pair.stem for pair in pairs[:num_train]], thumbnails)
    return _Found(is_gray, counts, min(sizes), max(sizes), tuple(findings.notes()), clusters)


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
            notes, clusters = tuple(entry["notes"]), entry["alike"]
            return _Found(bool(entry["is_gray"]), counts, smallest, largest, notes, clusters)
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
    pairs = _pairs(folder, folder.train, "train ")
    pairs += _pairs(folder, folder.test, "test ") if folder.test else []
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


# --- validation part ------------------------------------------------------------------------


def validation_folder(target: Path) -> DataFolder:
    """Return where a split in `target` has its parts; its test part is the validation part."""
    return DataFolder(
        target,
        _part("train/inputs", "train/targets"),
        _part("validation/inputs", "validation/targets"),
    )


def split_validation(
    folder: DataFolder,
    target: Path,
    *,
    fraction: float,
    group_by: str | None = None,
    alike: Sequence[Sequence[str]] = (),
) -> DataFolder:
    """Split the training part into `target`/{train,validation}/{inputs,targets}.

    Files are hard links, or copies where the file system has none; never symbolic links, which
    lead nowhere inside a container. A finished split is used again while it and the data hold
    the same files; otherwise it is made anew.

    Args:
        folder: the data set.
        target: where the split goes; its `test` part is the validation part.
        fraction: share of the training images (of the groups, where given) that is split off.
        group_by: regular expression on the file's stem; images with the same match (its first
            group, if it has one) stay together, as slices of one patient must. Without it the
            groups are those of the data folder's `groups.csv`, if it has one.
        alike: stems of images that stay together where nobody says what is of one patient.

    Raises:
        UsageError: too few images, or a pattern that does not match some of them.
    """
    result = validation_folder(target)
    train, validation = result.train, result.test
    assert validation is not None
    pairs = _pairs(folder, folder.train, "train ")
    contents = Contents(target.with_name(MEMORY))
    files = {f"inputs/{pair.name}": pair.input for pair in pairs}
    files |= {f"targets/{pair.target_name}": pair.target for pair in pairs if pair.target}
    digests = contents.digests([*files.values()])
    sources = {name: digests[path] for name, path in files.items()}
    if target.is_dir() and is_split_of(target, sources, contents):
        return result
    table = read_groups(folder.root) if group_by is None else {}
    if not table:
        table = {stem: cluster[0] for cluster in alike for stem in cluster}
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        stem = pair.stem
        name = table.get(stem, stem) if group_by is None else group_of(pair, group_by)
        groups.setdefault(name, []).append(pair)
    names = sorted(groups)
    random.Random(SPLIT_SEED).shuffle(names)
    num_chosen = max(1, round(fraction * len(names)))
    if num_chosen >= len(names):
        raise UsageError(
            f"--validation-fraction {fraction:g} leaves nothing to train on: "
            f"{len(pairs)} images in {len(names)} groups"
        )
    chosen = set(names[:num_chosen])
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    manifest = {}
    for name, members in groups.items():
        part = validation if name in chosen else train
        for pair in members:
            assert pair.target is not None
            for source, place in (
                (pair.input, part.inputs / pair.name),
                (pair.target, part.targets / pair.target_name),
            ):
                _link(source, aside / place)
                manifest[str(place)] = digests[source]
    write_manifest(aside, manifest)
    if target.is_dir() and not is_split_of(target, sources, contents):
        replace_folder(aside, target)  # linked to files that were changed in place since
        shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.rename(target)
    except OSError:  # another driver on this folder was faster, with the same split
        shutil.rmtree(aside, ignore_errors=True)
    for name in manifest:
        contents.linked(files[name.partition("/")[2]], target / name)
    contents.save()
    return result


def group_of(pair: Pair, pattern: str, option: str = "--group-by") -> str:
    """Return what a pattern, or its first group, matches in an image's name.

    Raises:
        UsageError: it matches nothing, or is no regular expression.
    """
    try:
        match = re.search(pattern, pair.stem)
    except re.error as error:
        raise UsageError(f"{option} {pattern!r}: not a regular expression ({error})") from None
    if match is None:
        raise UsageError(f"{option} {pattern!r} does not match {pair.name}")
    return str(match[1] if match.re.groups else match[0])


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
