"""What `rml-data check` finds: of each pair of image and mask, and of the whole data folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.prepare.similarity import Thumbnail
from trainer.data.findings import Seen
from trainer.data.images import Pair


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
        near_duplicates_in: the part of each cluster.
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
    near_duplicates_in: list[str] = field(default_factory=list)
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
