"""Looks at a data folder as an experienced colleague would, before anything is trained on it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.data.leaks import judge_leaks
from hpo.data.reading_keys import ReadingKeys
from hpo.dataset.datafolder import DataFolder, Part, find_data
from hpo.dataset.near_duplicates import thumbnail_of
from hpo.dataset.scored_parts import Scoring, score_part
from hpo.dataset.trivial_baseline import trivial_scores
from hpo.errors import UsageError
from studies.prepare.colours import count_colours, propose
from studies.prepare.likeness import Thumbnail
from studies.prepare.samples import shown
from trainer.data.decoding import COLOURED
from trainer.data.doubts import doubts_about
from trainer.data.findings import Findings, Seen, see
from trainer.data.headers import read_header
from trainer.data.images import Pair, match_folders, read_image
from trainer.data.reading import read_checked_mask
from trainer.data.survey import MaskCoding, count_values, decide_coding
from trainer.errors import DataError

NUM_BINS = 16
RARE_SHARE = 0.05  # below, accuracy says nothing: predicting none of a class is 95 % right
NARROW_SHARE = 0.25  # of the full scale: darker sets train slowly
PARTS = ("train", "validation", "test")
DEFAULT_KEYS = ReadingKeys()
MAX_COLOURED = 50  # masks of colours whose colours are counted


@dataclass(frozen=True, kw_only=True)
class ClassFacts:
    """One class: the stored mask value, its share of all pixels, images that have it."""

    value: int
    pixel_share: float
    num_images: dict[str, int]


@dataclass(kw_only=True)
class DataCheck:
    """What was found; `problems` must be mended, `advice` should be read.

    Attributes:
        num_pairs: part -> images with a usable mask.
        sizes: "HxW" -> images of that size.
        types: "uint8 gray" and the like -> images.
        histogram: share of pixels in each sixteenth of the full scale, colours averaged.
        levels: (smallest, largest) pixel value.
        trivial: part -> class -> its Dice if every pixel is taken for it.
        near_duplicates: names within one part that show nearly the same, cluster by cluster.
    """

    root: str
    num_pairs: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    histogram: list[float] = field(default_factory=list)
    levels: tuple[int, int] = (0, 0)
    masks: str = ""
    classes: list[ClassFacts] = field(default_factory=list)
    trivial: dict[str, dict[str, float]] = field(default_factory=dict)
    near_duplicates: list[list[str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class CheckedPair:
    """One pair, read."""

    part: str
    pair: Pair
    size: tuple[int, int]
    kind: str
    histogram: NDArray[np.float64]
    levels: tuple[int, int]
    full_scale: int
    values: Counter[int]
    digest: str
    small: Thumbnail
    seen: Seen


def check_data(
    root: Path,
    *,
    group: str | None = None,
    keys: ReadingKeys = DEFAULT_KEYS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[DataCheck, list[CheckedPair], MaskCoding | None]:
    """Read every pair of a data folder and say what is there, what is wrong, what is odd.

    Args:
        root: the folder, in any layout that a search reads.
        group: regular expression on a file's name; what it matches is the patient. Without it
            the patients are those of `groups.csv`, where `rml-data prepare` has written one.
        keys: how the search will read the data.
        progress: called with (done, total).

    Raises:
        UsageError: no such folder or layout, or a pattern that cannot be used.
        DataError: a part has no images at all.
    """
    try:
        folder = find_data(root, needs_test=False, wants_validation=True)
    except UsageError as error:
        raise UsageError(str(error).removeprefix("--data: ")) from None
    folder = replace(folder, follow_symlinks=keys.follow_symlinks)
    check = DataCheck(root=str(root))
    pairs = [
        (name, pair)
        for name, part in zip(PARTS, (folder.train, folder.validation, folder.test), strict=True)
        if part is not None
        for pair in _pairs(folder, part, check)
    ]
    looked = _look_at_all(pairs, check, progress)
    check.num_pairs = dict(Counter(entry.part for entry in looked))
    if not looked:
        check.problems.append("no image with a usable mask")
        return check, [], None
    check.sizes = _common(f"{entry.size[0]}x{entry.size[1]}" for entry in looked)
    check.types = _common(entry.kind for entry in looked)
    _judge_files(looked, check)
    _judge_intensities(looked, check)
    coding = _judge_masks(looked, folder, keys, check)
    judge_leaks(looked, root, group, check)
    return check, looked, coding


def _pairs(folder: DataFolder, part: Part, check: DataCheck) -> list[Pair]:
    """Pair images with masks; what has no partner is a problem."""
    found = match_folders(
        folder.root / part.inputs,
        folder.root / part.targets,
        "",
        follow_symlinks=folder.follow_symlinks,
        notes=check.advice,
    )
    if found.alone:
        names = shown([path.name for path in found.alone])
        check.problems.append(f"{part.inputs}: {len(found.alone)} without a mask: {names}")
    for path, masks in found.several:
        names = shown([mask.name for mask in masks])
        check.problems.append(f"{part.inputs}: {path.name} has several masks: {names}")
    if found.unused:
        names = shown([path.name for path in found.unused])
        check.problems.append(f"{part.targets}: {len(found.unused)} without an image: {names}")
    return found.pairs


def _look_at_all(
    pairs: Sequence[tuple[str, Pair]], check: DataCheck, progress: Callable[[int, int], None]
) -> list[CheckedPair]:
    looked: list[CheckedPair] = []
    failed: dict[str, list[tuple[Pair, str]]] = {}

    def look(entry: tuple[str, Pair]) -> CheckedPair | str:
        try:
            return _look(*entry)
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, ((_, pair), found) in enumerate(
            zip(pairs, pool.map(look, pairs), strict=True), 1
        ):
            if isinstance(found, str):
                reason = found.removeprefix(f"{pair.target}: ").removeprefix(f"{pair.input}: ")
                failed.setdefault(reason, []).append((pair, found))
            else:
                looked.append(found)
            progress(done, len(pairs))
    for reason, members in failed.items():
        pairs_of = [pair for pair, _ in members]
        text = members[0][1]
        if len(members) > 1:
            text = f"{len(members)} pairs ({shown([pair.name for pair in pairs_of])}): {reason}"
        check.problems.append(text + _remedy(reason, pairs_of))
    return looked


def _remedy(reason: str, pairs: Sequence[Pair]) -> str:
    """Return the colours that masks of colours have, as the option that makes classes of them."""
    if not reason.startswith(COLOURED):
        return ""
    counts = _colours_of(pairs)
    table = propose(counts)
    if table is None:
        return f"; they have {len(counts)} colours"
    return f"; rml-data prepare folder … --colors {table} makes classes of these colours"


def _colours_of(pairs: Sequence[Pair]) -> Counter[int]:
    """Count the pixels of each colour in the masks of some pairs."""
    counts: Counter[int] = Counter()
    for pair in pairs[:MAX_COLOURED]:
        assert pair.target is not None
        counts += count_colours(pair.target)
    return counts


def _look(part: str, pair: Pair) -> CheckedPair:
    assert pair.target is not None
    headers = read_header(pair.input), read_header(pair.target)
    image = read_image(pair.input, gray=False, header=headers[0])
    mask = read_checked_mask(pair, image.shape[:2], headers[1])
    full_scale = int(np.iinfo(image.dtype).max)
    is_gray = bool((image == image[:, :, :1]).all())
    counts, _ = np.histogram(image, bins=NUM_BINS, range=(0, full_scale + 1))
    return CheckedPair(
        part=part,
        pair=pair,
        size=(image.shape[0], image.shape[1]),
        kind=f"{image.dtype} {'gray' if is_gray else 'colour'}",
        histogram=counts / counts.sum(),
        levels=(int(image.min()), int(image.max())),
        full_scale=full_scale,
        values=count_values(mask),
        digest=hashlib.sha256(image.tobytes()).hexdigest(),
        small=thumbnail_of(image),
        seen=see(pair, headers, image, mask),
    )


def _common(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _judge_files(looked: Sequence[CheckedPair], check: DataCheck) -> None:
    findings = Findings()
    disagreeing: dict[Pair, str] = {}
    for entry in looked:
        try:
            findings.add(entry.seen)
        except DataError as error:
            disagreeing[entry.pair] = str(error)
    if disagreeing:
        colours = _colours_of([entry.pair for entry in looked if entry.seen.colours])
        if table := propose(colours):
            colours_text = f"; all masks together have --colors {table}"
        else:
            colours_text = f"; all masks together have {len(colours)} colours"
        more = f" (and {len(disagreeing) - 1} more)" if len(disagreeing) > 1 else ""
        check.problems.append(next(iter(disagreeing.values())) + more + colours_text)
    try:
        findings.refuse_copies()
    except DataError as error:
        check.problems.append(str(error))
    check.advice += findings.notes()


def _judge_intensities(looked: Sequence[CheckedPair], check: DataCheck) -> None:
    check.histogram = [
        round(float(share), 4) for share in np.mean([entry.histogram for entry in looked], axis=0)
    ]
    low = min(entry.levels[0] for entry in looked)
    high = max(entry.levels[1] for entry in looked)
    check.levels = (low, high)
    scale = max(entry.full_scale for entry in looked)
    # 16 bits are scaled by the range of the training images, whatever corner they fill.
    if scale <= np.iinfo(np.uint8).max and high - low < NARROW_SHARE * scale:
        mean, std = low / scale, max(high - low, 1) / scale
        check.advice.append(
            f"images use {low} to {high} of {scale} levels; spread them with the transform "
            f'{{"normalize": {{"mean": {mean:.4g}, "std": {std:.4g}}}}}'
        )
    flat = [entry.pair.name for entry in looked if entry.levels[0] == entry.levels[1]]
    if flat:
        check.problems.append(f"{len(flat)} images of one value only: {shown(flat)}")
    depths = {entry.full_scale for entry in looked}
    if len(depths) > 1:
        check.problems.append("some images have 8 bits a channel and some 16; convert one kind")
    if len(check.sizes) > 1:
        check.advice.append(
            f"images have {len(check.sizes)} sizes; a search resizes them (--resize, 256,256)"
        )
    if all(entry.kind.endswith("gray") for entry in looked):
        check.advice.append("all images are gray: networks of one channel are enough")


def _judge_masks(
    looked: Sequence[CheckedPair], folder: DataFolder, keys: ReadingKeys, check: DataCheck
) -> MaskCoding | None:
    counts: Counter[int] = Counter()
    for entry in looked:
        counts.update(entry.values)
    total = sum(counts.values())
    for value in sorted(counts)[:64]:
        images = Counter(entry.part for entry in looked if value in entry.values)
        check.classes.append(
            ClassFacts(value=value, pixel_share=counts[value] / total, num_images=dict(images))
        )
    try:
        coding = decide_coding(
            counts,
            where=str(folder.root / folder.train.targets),
            mask_values=keys.mask_values,
            mask_threshold=keys.mask_threshold,
        )
    except DataError as error:
        check.problems.append(str(error))
        return None
    check.masks = coding.describe()
    for doubt in doubts_about(coding):
        (check.problems if doubt.is_wrong else check.advice).append(str(doubt))
    check.trivial = {part: _trivial(looked, part, coding) for part in check.num_pairs}
    if coding.is_single_valued:
        check.problems.append("every pixel of every mask has one value: nothing to segment")
    for facts in check.classes if coding.kind != "threshold" else ():
        if _is_ignored(facts.value, coding, keys):
            continue
        for part in check.num_pairs:
            if part not in facts.num_images:
                check.advice.append(f"mask value {facts.value} occurs in no {part} image")
        if facts.value != 0 and facts.pixel_share < RARE_SHARE:
            check.advice.append(
                f"mask value {facts.value} is {facts.pixel_share:.1%} of all pixels: predicting "
                f"none of it is right in {1 - facts.pixel_share:.1%} of them, so use Dice, not "
                "accuracy; a Dice loss or loss.weight helps it to be learnt"
            )
    empty = sum(set(entry.values) == {0} for entry in looked)
    if empty and coding.kind == "binary":
        check.advice.append(
            f"{empty} of {len(looked)} masks are empty: dice_per_image counts a right one as 1"
        )
    return coding


def _trivial(looked: Sequence[CheckedPair], part: str, coding: MaskCoding) -> dict[str, float]:
    scoring = Scoring(coding)
    masks = score_part(part, [entry.values for entry in looked if entry.part == part], scoring)
    scores = trivial_scores(masks, scoring, has_one_channel=coding.num_classes == 2)
    return {entry.class_name: round(entry.of_class, 6) for entry in scores}


def _is_ignored(value: int, coding: MaskCoding, keys: ReadingKeys) -> bool:
    index = keys.ignore_index
    return index is not None and index < len(coding.values) and coding.values[index] == value
