"""Asks whether masks mean what they were taken for: class ids that never occur, inverted masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.data.survey import MaskCoding

INVERTED_SHARE = 0.8  # of the pixels: objects cover less of an image, backgrounds more


@dataclass(frozen=True)
class Doubt:
    """What is odd about a set's mask values, with the setting that mends it.

    Attributes:
        text: one line for the user.
        is_wrong: no sound set looks like this.
    """

    text: str
    is_wrong: bool = False

    def __str__(self) -> str:
        return self.text


def doubts_about(
    coding: MaskCoding,
    *,
    class_names: Sequence[str] | None = None,
    ignore_index: int | None = None,
) -> list[Doubt]:
    """Return what should be asked about the masks of a whole data set.

    Args:
        coding: what its values were taken for.
        class_names: classes that the user has named are meant, whether they occur or not.
        ignore_index: class id of pixels that count nowhere.
    """
    doubts = []
    found = sorted(coding.counts)
    if coding.kind == "classes" and class_names is None:
        ids = [value for value in found if value != ignore_index]
        lacking = [value for value in coding.values if value not in (*found, ignore_index)]
        if 0 in lacking:
            doubts.append(
                Doubt(
                    f"mask values are {_listed(found)} and no pixel is 0, so class 0, the "
                    "background, would never occur; list the values that are classes, the "
                    f"background first: data.mask_values={ids}",
                    is_wrong=True,
                )
            )
        elif lacking:
            doubts.append(
                Doubt(
                    f"no mask has the class id{'s' if len(lacking) > 1 else ''} "
                    f"{_listed(lacking)}, which the network would learn all the same; leave "
                    f"them out by data.mask_values={ids}, or name all classes in "
                    "data.class_names if these images only happen to lack some"
                )
            )
    if coding.kind == "values" and (lacking := [v for v in coding.values if v not in found]):
        doubts.append(Doubt(f"data.mask_values has {_listed(lacking)}, which no mask has"))
    if coding.num_classes == 2 and (share := _foreground_share(coding)) > INVERTED_SHARE:
        remedy = "data.mask_values=" + str(list(reversed(coding.values)))
        if coding.kind == "threshold":
            remedy = "data.mask_values, the background first, in place of data.mask_threshold"
        doubts.append(
            Doubt(
                f"{share:.0%} of all mask pixels are foreground: are the masks inverted? "
                f"If so, set {remedy}"
            )
        )
    return doubts


def _foreground_share(coding: MaskCoding) -> float:
    foreground = sum(
        pixels
        for value, pixels in coding.counts.items()
        if (value >= coding.values[0] if coding.kind == "threshold" else value == coding.values[1])
    )
    return foreground / max(1, sum(coding.counts.values()))


def _listed(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)
