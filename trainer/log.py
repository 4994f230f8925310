"""Writes the worker's log: stamped lines on standard output, as the reference engine does."""

from __future__ import annotations

import io
import sys
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from typing import TextIO

WIDTH = 45  # of a section's frame in the reference engine's log


def escape_unprintable() -> None:
    """Write what a terminal has no letter for as its number, where Python would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """Return text in which what a terminal would obey, or not show, is written as its number.

    Control characters, marks that turn the direction of writing, letters without width, bytes
    that are no text: names of files may hold them. Line breaks are among them; tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\t" or unicodedata.category(c) == "Zs" else _escaped(c)
        for c in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", errors="backslashreplace").decode("ascii")


class Log:
    """Stamped lines, sections of `key: value`, and nothing on processes other than the first."""

    def __init__(self, stream: TextIO | None = None, *, silent: bool = False) -> None:
        self._stream = stream or sys.stdout
        self._silent = silent

    def __call__(self, text: str) -> None:
        """Write each line of `text` with its time stamp."""
        if self._silent:
            return
        stamp = datetime.now().strftime("[%Y-%b-%d %H:%M:%S.%f]")
        for line in text.splitlines() or [""]:
            self._stream.write(f"{stamp} {printable(line)}\n")
        self._stream.flush()

    def section(self, title: str, entries: Mapping[str, object]) -> None:
        """Write a framed block of settings."""
        self.heading(title)
        self.entries(entries)
        self.rule()

    def heading(self, title: str) -> None:
        """Open a frame, with its title in the middle."""
        left = (WIDTH - len(title) - 1) // 2
        self("-" * left + f" {title} ".ljust(WIDTH - left, "-"))

    def rule(self) -> None:
        """Close a frame, or part what follows from what was before."""
        self("-" * WIDTH)

    def entries(self, entries: Mapping[str, object], indent: int = 3, width: int = 0) -> None:
        """Write settings, with their colons below each other."""
        width = max([width, *map(len, entries)])
        for key, value in entries.items():
            self(f"{'':{indent}}{key:<{width}}: {_shown(value)}")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)
