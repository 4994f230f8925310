"""What `rml-data check` has found, as text."""

from __future__ import annotations

from collections.abc import Iterator

from hpo.data.facts import DataCheck
from hpo.dataset.near_duplicates import shown_alike

BARS = " ▁▂▃▄▅▆▇█"


def describe_check(found: DataCheck) -> Iterator[str]:
    """Yield what a check has found, line by line."""
    counts = ", ".join(f"{number} {part}" for part, number in found.num_pairs.items())
    yield f"{found.root}: {counts or 'no usable'} images with masks"
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
        yield f"  value {facts.value}: {facts.pixel_share:.2%} of all pixels, in {images} images"
    for part, dices in found.trivial.items():
        shown = ", ".join(f"{name} {dice:.4f}" for name, dice in [*dices.items()][:6])
        yield f"one answer everywhere, {part}, its class's own Dice: {shown}"
    if found.near_duplicates:
        yield (
            f"near-duplicates within a part, kept together by a split: "
            f"{shown_alike(found.near_duplicates)}"
        )
    for text in found.advice:
        yield f"advice: {text}"
    for text in found.problems:
        yield f"PROBLEM: {text}"
    if not found.problems:
        yield "nothing has to be mended"
