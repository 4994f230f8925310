"""Counts the colours of masks that hold colours in place of class ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from studies.prepare.colours import count_colours
from trainer.data.images import Pair

MAX_COLOURED = 50  # masks whose colours are counted


def colours_of(pairs: Sequence[Pair]) -> Counter[int]:
    """Count the pixels of each colour in the masks of some pairs."""
    counts: Counter[int] = Counter()
    for pair in pairs[:MAX_COLOURED]:
        assert pair.target is not None
        counts += count_colours(pair.target)
    return counts
