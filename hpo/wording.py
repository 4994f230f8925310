"""Puts durations, sampled values and tables into words."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Mapping
from typing import Any

from trainer.figures import is_share

ABSENT = "–"
SHORT_NAME = "Dice"  # of the score that is the default, in a line on a trial
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", ABSENT: "--",
}  # fmt: skip


def format_seconds(seconds: float) -> str:
    """Return `42 s`, `3 min 20 s` or `5 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def describe_left(hours: float, left_s: float, expected_s: float | None = None) -> str:
    """Return `3 h 12 min of 8 h left, ends about Fri 17:04`.

    Args:
        hours: all that a study has.
        left_s: seconds of them that are left.
        expected_s: what its trials are expected to take; None if nobody knows.
    """
    if left_s <= 0:
        return f"the {hours:g} h are over"
    end_s = left_s if expected_s is None else min(left_s, expected_s)
    clock = time.strftime("%a %H:%M", time.localtime(time.time() + end_s))
    return f"{format_seconds(left_s)} of {hours:g} h left, ends about {clock}"


def format_size(size_bytes: float) -> str:
    """Return `512 B`, `41 kB`, `830 MB` or `1.2 GB`."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


def format_score(value: float, name: str) -> str:
    """Return a score: a share with four decimals, any other figure with four significant digits.

    Args:
        value: may be of any size.
        name: of the objective, or its short name.
    """
    if name == SHORT_NAME or is_share(name):
        return f"{value:.4f}"
    if 1000 <= abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value + 0.0:#.4g}"  # no minus before a zero


def describe_time(span_s: float, busy_s: float) -> str:
    """Say how long a study took, pauses among it, and its trials one after the other."""
    return (
        f"{format_seconds(span_s)} from the first trial to the last, "
        f"{format_seconds(busy_s)} of trials"
    )


def describe_values(chosen: Mapping[str, Any]) -> str:
    """Return sampled values briefly: `type=Adam learning_rate=0.00123 function=Dice`."""
    parts = []
    for key, value in chosen.items():
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        parts.append(f"{key.rsplit('.', 1)[-1]}={shown}")
    return " ".join(parts)


def fold(text: str, width: int, indent: str = "") -> str:
    """Break a text into lines at its blanks; a word that is longer than a line stays whole.

    Args:
        text: its own line breaks stay, and so does what its lines begin with.
        width: characters of a line.
        indent: what further lines begin with, besides.
    """
    folded = []
    for line in text.splitlines() or [""]:
        begin = line[: len(line) - len(line.lstrip())]
        folded += textwrap.wrap(
            line,
            width,
            subsequent_indent=begin + indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return "\n".join(folded)


def latex(text: str) -> str:
    """Escape what LaTeX would take for commands."""
    return re.sub("|".join(map(re.escape, LATEX)), lambda found: LATEX[found[0]], text)
