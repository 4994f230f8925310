"""One line of `rml-study doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["OK", "WARN", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, the verdict, what was found and, if need be, the remedy."""

    topic: str
    verdict: Verdict
    text: str
