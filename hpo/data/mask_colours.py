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
    def _found(self) -> tuple[str | None, int]:
        """The table, where the colours can be classes, and their number."""
        counts: Counter[int] = Counter()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for found in pool.map(_colours_of, [p.target for p in self._pairs if p.target]):
                counts += found
        return propose(counts), len(counts)

    @property
    def text(self) -> str:
        """Name the table, as the end of a sentence on colours that disagree."""
        table, number = self._found
        if table is None:
            return f"; all masks together have {counted(number, 'colour')}"
        return f"; all masks together have --colors {table}"

    @property
    def remedy(self) -> str:
        """Say how to make classes of the colours, as the end of a sentence."""
        table, _ = self._found
        if table is None:
            return self.text
        return (
            f"; rml-data prepare folder … --colors {table} makes classes of these, the colours of "
            "all masks, gray ones too; RRGGBB=1 gives a class a second colour"
        )


def _colours_of(mask: Path) -> Counter[int]:
    with contextlib.suppress(DataError):  # its own problem says so
        return count_colours(mask)
    return Counter()
