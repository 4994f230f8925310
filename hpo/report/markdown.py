"""Puts texts into Markdown that others have chosen: a worker, an image's name, a script.

In a code span or block nothing is a link, an image or HTML, for any renderer. Backslashes would
not do: GitHub's flavour, which Optuna's dashboard shows, makes links of addresses that it finds in
the text after these are taken off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from trainer.log import printable

MAX_CHARS = 500
MAX_LINES = 12
_PLAIN = re.compile(r"[A-Za-z0-9 ,%()']+")  # no emphasis, no address: these need other letters
_TICKS = re.compile(r"`+")


def prose(text: str) -> str:
    """Return a text as it is where it cannot be anything but words, else as code."""
    return text if _PLAIN.fullmatch(text) else code(text)


def code(value: object, max_chars: int = MAX_CHARS) -> str:
    """Return a text as a code span, in one line."""
    text = _cut(printable(" ".join(str(value).split())), max_chars)
    if not text:
        return "–"
    ticks = "`" * (_longest(text) + 1)
    # a blank within is taken off by whoever shows it
    room = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{ticks}{room}{text}{room}{ticks}"


def code_block(lines: Iterable[str], width: int = MAX_CHARS) -> str:
    """Return the last few lines as a block of code, folded at a width: a page gets as wide."""
    shown = (_cut(printable(line), MAX_CHARS) for line in list(lines)[-MAX_LINES:])
    text = "\n".join(line[i : i + width] for line in shown for i in range(0, len(line), width))
    ticks = "`" * max(3, _longest(text) + 1)
    return f"{ticks}\n{text}\n{ticks}"


def _cut(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else f"{text[:max_chars]} …"


def _longest(text: str) -> int:
    return max(map(len, _TICKS.findall(text)), default=0)
