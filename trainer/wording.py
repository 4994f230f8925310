"""Puts numbers and their nouns into words."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 image`, `2 images`; a plural that does not end in s is given."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
