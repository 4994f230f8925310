"""Finds the name that a misspelt one was probably meant to be."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` is most like, whatever its case; None if none is."""
    import difflib  # which only a mistake needs

    by_lower = {entry.lower(): entry for entry in known}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[match[0]] if match else None
