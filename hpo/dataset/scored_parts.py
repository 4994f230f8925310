"""What the masks of the parts that are scored hold, before anything is trained.

A part without foreground scores nothing, and what a network gets for one and the same answer
everywhere is worked out here, so that no such answer passes for a result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.dataset.datafolder import DataFolder
from hpo.dataset.survey import DataSurvey
from trainer.data.doubts import doubts_about
from trainer.data.images import list_samples
from trainer.data.survey import MaskCoding
from trainer.errors import DataError
from trainer.keypath import get_path

Values = Mapping[int, int]  # pixels per stored mask value


@dataclass(frozen=True)
class Scoring:
    """What decides which pixels and classes count.

    Attributes:
        coding: what mask values mean.
        class_names: of all classes, if the user has given them.
        ignore_index: class id of pixels that count nowhere.
        include_background: whether class 0 is averaged, where there are more than two classes.
    """

    coding: MaskCoding
    class_names: tuple[str, ...] | None = None
    ignore_index: int | None = None
    include_background: bool = True

    def short_name(self, class_id: int) -> str:
        """Return what a class is called."""
        names = self.class_names
        if names is not None and class_id < len(names):
            return names[class_id]
        if self.coding.num_classes == 2:
            return ("background", "foreground")[class_id]
        return "background" if class_id == 0 else f"class_{class_id}"

    def name(self, class_id: int) -> str:
        """Return what a class is called, with the value that masks have for it."""
        name = self.short_name(class_id)
        if self.coding.kind == "threshold":
            return name
        return f"{name} (mask value {self.coding.values[class_id]})"

    def class_counts(self, values: Values) -> NDArray[np.float64]:
        """Return the pixels of each class of one mask; those that are ignored have none."""
        stored = np.fromiter(values, dtype=np.int64)
        counts = np.bincount(
            self.coding.encode(stored).astype(np.int64),
            weights=np.fromiter(values.values(), dtype=np.float64),
            minlength=self.coding.num_classes,
        ).astype(np.float64)
        if self.ignore_index is not None and self.ignore_index < len(counts):
            counts[self.ignore_index] = 0
        return counts

    def classes_in(self, values: Values) -> frozenset[int]:
        """Return the ids of the classes that a mask shows."""
        return frozenset(np.flatnonzero(self.class_counts(values)).tolist())


@dataclass(frozen=True)
class ScoredPart:
    """The images on which something is scored: of the search, or of its winner.

    Attributes:
        name: how messages call it.
        counts: what each class covers of all its masks: each has the same weight, as it has once
            all are resized to one size, or counts by its pixels.
    """

    name: str
    counts: NDArray[np.float64]


def scoring_of(base: Mapping[str, Any], coding: MaskCoding) -> Scoring:
    """Return what a `neural_network` object says of what counts."""
    names, ignored = get_path(base, "data.class_names"), get_path(base, "loss.ignore_index")
    with_background = get_path(base, "metrics.include_background", True)
    return Scoring(coding, tuple(names) if names else None, ignored, with_background is True)


def scored_parts(
    data: DataFolder,
    trained: DataFolder,
    survey: DataSurvey,
    scoring: Scoring,
    *,
    by_pixels: bool = False,
) -> list[ScoredPart]:
    """Return the parts that trials and their winner are scored on; none if not surveyed.

    Args:
        data: where the test images are.
        trained: where the validation images are, if there are any.
        survey: what their masks hold.
        scoring: what counts.
        by_pixels: scores are at the images' own size, where a larger image counts more.
    """
    parts = []
    train, test = survey.values.get("train", {}), survey.values.get("test", {})
    if own := survey.values.get("validation"):
        parts.append(score_part("validation images", own.values(), scoring, by_pixels))
    elif train and trained.root != data.root and trained.test is not None:
        folders = trained.root / trained.test.inputs, trained.root / trained.test.targets
        masks = [train[pair.name] for pair in list_samples(*folders, "split ")]
        parts.append(score_part("validation images", masks, scoring, by_pixels))
    if test:
        parts.append(score_part("test images", test.values(), scoring, by_pixels))
    return parts


def score_part(
    name: str, masks: Iterable[Values], scoring: Scoring, by_pixels: bool = False
) -> ScoredPart:
    """Sum up a part's masks, in pixels or in masks of one weight."""
    counts = [
        scoring.class_counts(values) / (1 if by_pixels else sum(values.values()))
        for values in masks
    ]
    return ScoredPart(name, np.sum(counts, axis=0))


def check_coding(scoring: Scoring) -> list[str]:
    """Return what is odd about the mask values.

    Raises:
        DataError: they cannot mean what they were taken for.
    """
    doubts = doubts_about(
        scoring.coding, class_names=scoring.class_names, ignore_index=scoring.ignore_index
    )
    for doubt in doubts:
        if doubt.is_wrong:
            raise DataError(f"masks: {doubt} (with --set, or in study.toml)")
    return [str(doubt) for doubt in doubts]


def refuse_absent_class(name: str, parts: Sequence[ScoredPart], scoring: Scoring) -> None:
    """Refuse to compare trials by the Dice of a class that no mask shows which they are scored on.

    It would be 0 of a network that finds some of it, and undefined of one that is right.

    Args:
        name: the class.
        parts: that trials are compared on.
        scoring: what counts.

    Raises:
        DataError: none shows it.
    """
    for part in parts:
        absent = [c for c in range(len(part.counts)) if not part.counts[c]]
        if name in map(scoring.short_name, absent):
            shown = [scoring.short_name(c) for c in range(len(part.counts)) if part.counts[c]]
            raise DataError(
                f"--objective dice_dataset.{name}: no mask of the {part.name} shows {name}, so "
                f"trials cannot be compared by it; they show {', '.join(shown)}"
            )


def check_parts(parts: Sequence[ScoredPart], scoring: Scoring) -> list[str]:
    """Return a warning for each class that a part lacks.

    Raises:
        DataError: a part has no foreground, so that nothing could be scored on it.
    """
    warnings = []
    # Of one that no mask at all shows, `check_coding` speaks.
    known = scoring.classes_in(scoring.coding.counts)
    for part in parts:
        if not part.counts[1:].any():
            raise DataError(
                f"the {part.name} have no foreground: no pixel of any mask is of another class "
                f"than {scoring.name(0)}, so there is nothing to score; move images with "
                "foreground there, or see data.mask_values if the masks mean something else"
            )
        lacking = [c for c in range(len(part.counts)) if not part.counts[c]]
        warnings += [
            f"no mask of the {part.name} shows {scoring.name(c)}: the accuracy on them averages "
            "the other classes"
            for c in lacking
            if c != scoring.ignore_index and (c in known or scoring.class_names)
        ]
    return warnings
