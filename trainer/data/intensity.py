"""Says which stored values of an input become 0 and 1.

8 bits have a full scale that everybody means. 16 bits rarely do: a detector's 12 bits, a CT's
numbers or a microscope's fill a corner of it, and divided by 65,535 would be nearly black.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from trainer.bounded import finite
from trainer.errors import DataError

# Of all training pixels: hot pixels and bright letters must not set the scale.
PERCENTILES = (0.1, 99.9)


@dataclass(frozen=True)
class IntensityRange:
    """Stored values from `low` to `high` become 0 to 1, what is beyond 0 or 1.

    Attributes:
        low, high: of stored values, low < high.
        bits: a channel of the images that it is meant for.
        source: how it was found, for the log.
    """

    low: float
    high: float
    bits: int
    source: str

    @property
    def is_full_scale(self) -> bool:
        """Whether it says no more than how many bits there are."""
        return self.low == 0 and self.high == 2**self.bits - 1

    @classmethod
    def of_checkpoint(cls, stored: object) -> IntensityRange | None:
        """Return the range that was stored with a model, None if it has none."""
        match stored:
            case {"low": int() | float() as low, "high": int() | float() as high, "bits": int(n)}:
                if finite(low) is None or finite(high) is None or n not in (8, 16):
                    return None
                return cls(low, high, n, "stored with the model") if low < high else None
        return None

    def as_json(self) -> dict[str, Any]:
        """Return what is stored with a model."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} become 0 to 1 ({self.source})"


def fit_range(counts: Counter[int]) -> IntensityRange | None:
    """Return the range between two percentiles of the training images; None without images.

    Where most pixels have one value, so that these are equal: the smallest and the largest value.

    Args:
        counts: pixels per stored value, of 16 bits.
    """
    if not counts:
        return None
    values = np.array(sorted(counts))
    share = np.cumsum([counts[value] for value in values.tolist()]) / counts.total()
    low, high = (
        int(values[np.searchsorted(share, percentile / 100)]) for percentile in PERCENTILES
    )
    source = f"the training images' {PERCENTILES[0]:g} and {PERCENTILES[1]:g} percentiles"
    if low == high:
        low, high, source = int(values[0]), int(values[-1]), "the training images' extremes"
    return IntensityRange(low, max(high, low + 1), 16, source)


def choose_range(
    setting: Literal["full"] | tuple[float, float] | None,
    *,
    bits: int,
    fitted: IntensityRange | None,
    stored: IntensityRange | None,
) -> IntensityRange | None:
    """Return the range of a run, None for the full scale of the images' bits.

    Args:
        setting: `data.intensity_range`; it goes before all else.
        bits: of the inputs.
        fitted: on the training images, if there are any of 16 bits: a new training has its own.
        stored: with the weights that are evaluated.

    Raises:
        DataError: the model was trained on images of other bits.
    """
    if setting == "full":
        return None
    if setting is not None:
        return IntensityRange(*setting, bits, "data.intensity_range")
    chosen = fitted or stored
    if chosen is not None and chosen.bits != bits:
        raise DataError(
            f"the model was trained on images of {chosen.bits} bits a channel with the values "
            f"{chosen.low:g} to {chosen.high:g}; these images have {bits}: convert them, or set "
            'data.intensity_range, to "full" or to [low, high]'
        )
    return None if chosen is not None and chosen.is_full_scale else chosen
