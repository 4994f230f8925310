"""Reads every pair of a data folder and collects facts, problems and advice."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from hpo.data.facts import CheckedPair, DataCheck
from hpo.data.judge import judge_files, judge_intensities, judge_masks
from hpo.data.leaks import judge_leaks
from hpo.data.mask_colours import ColourTable
from hpo.data.reading_keys import ReadingKeys
from hpo.data.unmatched import unmatched
from hpo.dataset.datafolder import DataFolder, Part, find_data
from hpo.dataset.near_duplicates import thumbnail_of
from hpo.errors import UsageError
from studies.prepare.samples import shown
from trainer.data.bands import is_gray
from trainer.data.decoding import COLOURED
from trainer.data.findings import see
from trainer.data.headers import Header, read_header
from trainer.data.images import Pair, match_folders, read_image
from trainer.data.reading import read_checked_mask
from trainer.data.room import ROOM
from trainer.data.survey import MaskCoding, count_values
from trainer.errors import DataError

NUM_BINS = 16
PARTS = ("train", "validation", "test")
DEFAULT_KEYS = ReadingKeys()


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
    table = ColourTable([pair for _, pair in pairs])
    checked = _read_all(pairs, table, check, progress)
    check.num_pairs = dict(Counter(entry.part for entry in checked))
    if not checked:
        check.problems.append("no image with a usable mask")
        return check, [], None
    check.sizes = _common(f"{entry.size[0]}x{entry.size[1]}" for entry in checked)
    check.types = _common(entry.kind for entry in checked)
    judge_files(checked, table, check)
    judge_intensities(checked, check)
    coding = judge_masks(checked, folder, keys, check)
    judge_leaks(checked, root, group, check)
    return check, checked, coding


def _pairs(folder: DataFolder, part: Part, check: DataCheck) -> list[Pair]:
    """Pair images with masks; what has no partner is a problem."""
    found = match_folders(
        folder.root / part.inputs,
        folder.root / part.targets,
        "",
        follow_symlinks=folder.follow_symlinks,
        notes=check.advice,
    )
    check.problems += unmatched(folder.root, part, found)
    return found.pairs


def _read_all(
    pairs: Sequence[tuple[str, Pair]],
    table: ColourTable,
    check: DataCheck,
    progress: Callable[[int, int], None],
) -> list[CheckedPair]:
    checked: list[CheckedPair] = []
    failed: dict[str, list[tuple[Pair, str]]] = {}

    def read(entry: tuple[str, Pair]) -> CheckedPair | str:
        try:
            return _read_pair(*entry)
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, ((_, pair), found) in enumerate(
            zip(pairs, pool.map(read, pairs), strict=True), 1
        ):
            if isinstance(found, str):
                reason = found.removeprefix(f"{pair.target}: ").removeprefix(f"{pair.input}: ")
                failed.setdefault(reason, []).append((pair, found))
            else:
                checked.append(found)
            progress(done, len(pairs))
    for reason, members in failed.items():
        pairs_of = [pair for pair, _ in members]
        text = members[0][1]
        if len(members) > 1:
            text = f"{len(members)} pairs ({shown([pair.name for pair in pairs_of])}): {reason}"
        check.problems.append(text + (table.remedy if reason.startswith(COLOURED) else ""))
    return checked


def _read_pair(part: str, pair: Pair) -> CheckedPair:
    assert pair.target is not None
    headers = read_header(pair.input), read_header(pair.target)
    with ROOM.of(*headers):
        return _read_both(part, pair, headers)


def _read_both(part: str, pair: Pair, headers: tuple[Header, Header]) -> CheckedPair:
    image = read_image(pair.input, gray=False, header=headers[0])
    mask = read_checked_mask(pair, image.shape[:2], headers[1])
    full_scale = int(np.iinfo(image.dtype).max)
    counts, _ = np.histogram(image, bins=NUM_BINS, range=(0, full_scale + 1))
    return CheckedPair(
        part=part,
        pair=pair,
        size=(image.shape[0], image.shape[1]),
        kind=f"{image.dtype} {'gray' if is_gray(image) else 'colour'}",
        histogram=counts / counts.sum(),
        levels=(int(image.min()), int(image.max())),
        full_scale=full_scale,
        values=count_values(mask),
        digest=hashlib.sha256(image.data).hexdigest(),
        small=thumbnail_of(image),
        seen=see(pair, headers, image, mask),
    )


def _common(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())
