"""Says what is wrong with pairs that were read, and what is odd: files, intensities, masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from hpo.data.facts import CheckedPair, ClassFacts, DataCheck
from hpo.data.mask_colours import ColourTable
from hpo.data.reading_keys import ReadingKeys
from hpo.dataset.datafolder import DataFolder
from hpo.dataset.scored_parts import Scoring, score_part
from hpo.dataset.trivial_baseline import trivial_scores
from studies.prepare.samples import shown
from trainer.data.doubts import doubts_about
from trainer.data.findings import Findings, describe_depths
from trainer.data.images import Pair
from trainer.data.survey import MaskCoding, decide_coding
from trainer.errors import DataError
from trainer.wording import counted

RARE_SHARE = 0.05  # below, a network that predicts none of a class is right in 95 % of the pixels
NARROW_SHARE = 0.25  # of the full scale: darker sets train slowly


def judge_files(checked: Sequence[CheckedPair], table: ColourTable, check: DataCheck) -> None:
    """Note what no single file shows: copies, colours that disagree, and the like."""
    findings = Findings()
    disagreeing: dict[Pair, str] = {}
    for entry in checked:
        try:
            findings.add(entry.seen)
        except DataError as error:
            disagreeing[entry.pair] = str(error)
    if disagreeing:
        more = f" (and {len(disagreeing) - 1} more)" if len(disagreeing) > 1 else ""
        reason = next(iter(disagreeing.values()))
        check.problems.append(reason + more + table.text)
    try:
        findings.refuse_copies()
    except DataError as error:
        check.problems.append(str(error))
    check.advice += findings.notes()


def judge_intensities(checked: Sequence[CheckedPair], check: DataCheck) -> None:
    """Note range and distribution of the pixel values, and images of other kinds than the rest."""
    check.histogram = [
        round(float(share), 4) for share in np.mean([entry.histogram for entry in checked], axis=0)
    ]
    low = min(entry.levels[0] for entry in checked)
    high = max(entry.levels[1] for entry in checked)
    check.levels = (low, high)
    scale = max(entry.full_scale for entry in checked)
    # 16 bits are scaled by the range of the training images, whatever corner they fill.
    if scale <= np.iinfo(np.uint8).max and high - low < NARROW_SHARE * scale:
        mean, std = low / scale, max(high - low, 1) / scale
        check.advice.append(
            f"images use {low} to {high} of {scale} levels; spread them with the transform "
            f'{{"normalize": {{"mean": {mean:.4g}, "std": {std:.4g}}}}}'
        )
    flat = [entry.pair.name for entry in checked if entry.levels[0] == entry.levels[1]]
    if flat:
        check.problems.append(
            f"{counted(len(flat), 'image')} of one value only: {shown(flat)}; replace or remove"
        )
    depths: dict[int, str] = {}
    for entry in checked:
        depths.setdefault(entry.seen.bits, f"{entry.part} {entry.pair.name}")
    if len(depths) > 1:
        check.problems.append(describe_depths(depths))
    if len(check.sizes) > 1:
        check.advice.append(
            f"images have {len(check.sizes)} sizes; a search resizes them (--resize H,W; by "
            "default 256,256)"
        )
    if all(entry.kind.endswith("gray") for entry in checked):
        check.advice.append("all images are gray: networks of one channel are enough")


def judge_masks(
    checked: Sequence[CheckedPair], folder: DataFolder, keys: ReadingKeys, check: DataCheck
) -> MaskCoding | None:
    """Note what the masks hold, class by class; return what values mean, if it is clear."""
    counts: Counter[int] = Counter()
    for entry in checked:
        counts.update(entry.values)
    total = sum(counts.values())
    for value in sorted(counts)[:64]:
        images = Counter(entry.part for entry in checked if value in entry.values)
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
    check.trivial = {part: _trivial(checked, part, coding) for part in check.num_pairs}
    if coding.is_single_valued:
        check.problems.append("every pixel of every mask has one value: nothing to segment")
    if coding.kind != "threshold":
        learnt = [f for f in check.classes if not _is_ignored(f.value, coding, keys)]
        check.advice += _on_classes(learnt, check.num_pairs)
    empty = sum(set(entry.values) == {0} for entry in checked)
    if empty and coding.kind == "binary":
        check.advice.append(
            f"{empty} of {counted(len(checked), 'mask')} {'is' if empty == 1 else 'are'} empty: "
            "dice_per_image counts an empty prediction there as 1"
        )
    return coding


def _on_classes(learnt: Sequence[ClassFacts], parts: Iterable[str]) -> Iterator[str]:
    """Yield a line on the classes that each part lacks, and one on those that are rare."""
    for part in parts:
        lacking = [str(facts.value) for facts in learnt if part not in facts.num_images]
        if lacking:
            is_one = len(lacking) == 1
            yield (
                f"mask value{'' if is_one else 's'} {', '.join(lacking)} "
                f"{'occurs' if is_one else 'occur'} in no {part} image"
            )
    rare = [
        f"{facts.value} ({facts.pixel_share:.1%} of all pixels)"
        for facts in learnt
        if facts.value != 0 and facts.pixel_share < RARE_SHARE
    ]
    if rare:
        yield (
            f"rare mask value{'' if len(rare) == 1 else 's'} {', '.join(rare)}: a loss on the "
            "overlap (--loss dice) learns rare classes sooner than one on single pixels does, or "
            "give those more weight (--set 'loss.weight=[…]')"
        )


def _trivial(checked: Sequence[CheckedPair], part: str, coding: MaskCoding) -> dict[str, float]:
    scoring = Scoring(coding)
    masks = score_part(part, [entry.values for entry in checked if entry.part == part], scoring)
    scores = trivial_scores(masks, scoring, has_one_channel=coding.num_classes == 2)
    return {entry.class_name: round(entry.of_class, 6) for entry in scores}


def _is_ignored(value: int, coding: MaskCoding, keys: ReadingKeys) -> bool:
    index = keys.ignore_index
    return index is not None and index < len(coding.values) and coding.values[index] == value
