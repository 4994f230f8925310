"""What `rml-data check` has found, as text."""

from __future__ import annotations

from collections.abc import Iterator

from hpo.data.facts import DataCheck
from hpo.dataset.near_duplicates import shown_alike
from hpo.dataset.trivial_baseline import describe_trivial

BARS = " ▁▂▃▄▅▆▇█"


def describe_check(found: DataCheck) -> Iterator[str]:
    """Yield what a check has found, line by line."""
    counts = ", ".join(f"{number} {part}" for part, number in found.num_pairs.items())
    noun = "image with its mask" if sum(found.num_pairs.values()) == 1 else "images with masks"
    yield f"{found.root}: {counts or 'no usable'} {noun}"
    for name, values in (("sizes (height x width)", found.sizes), ("types", found.types)):
        common = [f"{value}: {number}" for value, number in list(values.items())[:6]]
        more = f", … ({len(values)} in all)" if len(values) > len(common) else ""
        yield f"{name}: {', '.join(common)}{more}"
    if found.histogram:
        tallest = max(found.histogram)
        bars = "".join(BARS[round(share / tallest * (len(BARS) - 1))] for share in found.histogram)
        low, high = found.levels
        yield f"intensities: {low} to {high}, in sixteenths of full scale |{bars}|"
    yield f"masks: {found.masks or 'see below'}"
    for facts in found.classes:
        images = ", ".join(f"{number} {part}" for part, number in facts.num_images.items())
        noun = "image" if [*facts.num_images.values()] == [1] else "images"
        yield f"  value {facts.value}: {facts.pixel_share:.2%} of all pixels, in {images} {noun}"
    figures = {
        part: {name: f"{dice:.4f}" for name, dice in dices.items()}
        for part, dices in found.trivial.items()
    }
    for meaning, text in describe_trivial(figures):
        yield f"{meaning}: {text}"
    if found.near_duplicates:
        yield (
            f"near-duplicates within a part, kept together by a split: "
            f"{shown_alike(found.near_duplicates, found.near_duplicates_in)}"
        )
    for text in found.advice:
        yield f"advice: {text.removeprefix('warning: ')}"
    for text in found.problems:
        yield f"PROBLEM: {text}"
    if not found.problems:
        yield "nothing has to be mended"
