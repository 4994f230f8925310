"""Finds the name that a misspelt one was probably meant to be."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

MAX_LENGTH, MAX_KNOWN = 100, 5000  # each comparison takes time by the square of the length


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` is most like, whatever its case; None if none is."""
    import difflib  # which only a mistake needs

    if len(name) > MAX_LENGTH:
        return None
    few = itertools.islice((entry for entry in known if len(entry) <= MAX_LENGTH), MAX_KNOWN)
    by_lower = {entry.lower(): entry for entry in few}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[match[0]] if match else None
