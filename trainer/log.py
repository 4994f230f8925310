"""Writes the worker's log: stamped lines on standard output, as the reference engine does."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import TextIO


def escape_unprintable() -> None:
    """Write what a terminal has no letter for as its number, where Python would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
            self._stream.write(f"{stamp} {line}\n")
        self._stream.flush()

    def section(self, title: str, entries: Mapping[str, object]) -> None:
        """Write a titled block of settings."""
        self(f"{title}:")
        width = max((len(key) for key in entries), default=0)
        for key, value in entries.items():
            self(f"  {key:<{width}} : {value}")
