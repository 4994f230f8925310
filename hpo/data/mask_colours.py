"""Counts the colours of masks that hold colours in place of class ids."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from studies.prepare.colours import count_colours, propose
from trainer.data.images import Pair
from trainer.errors import DataError
from trainer.wording import counted


class ColourTable:
    """The colours of all masks of a data set: a table of some would leave out the others.

    Args:
        pairs: images with their masks; they are read when a remedy is asked for.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs

    @cached_property
    def remedy(self) -> str:
        """Say how to make classes of the colours, as the end of a sentence."""
        counts: Counter[int] = Counter()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for found in pool.map(_colours_of, [p.target for p in self._pairs if p.target]):
                counts += found
        table = propose(counts)
        if table is None:
            return f"; all masks together have {counted(len(counts), 'colour')}, no classes"
        return (
            f"; rml-data prepare folder … --colors {table} makes classes of the colours of all "
            "masks, gray ones too, in this order (RRGGBB=1 for a class that has two)"
        )


def _colours_of(mask: Path) -> Counter[int]:
    with contextlib.suppress(DataError):  # its own problem says so
        return count_colours(mask)
    return Counter()
