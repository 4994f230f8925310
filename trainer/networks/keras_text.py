"""Parses the JSON text of a network, of no more values than a network's has."""

from __future__ import annotations

import json
from typing import Any

from trainer.bounded import BoundError, check_depth

MAX_DEPTH = 200  # of arrays and objects: models nest, and so do their calls' arguments
MAX_VALUES = 4_000_000  # 20,000 layers have a quarter of that


def parse_json_text(text: str) -> Any:
    """Return what the text says; it may be NaN, which Keras writes, and the layers refuse.

    Raises:
        BoundError: it is nested deeper, or has more values, than a network.
        ValueError: it is no JSON.
    """
    # Each value is at least preceded by one of these, and takes a hundred bytes of memory.
    if sum(text.count(mark) for mark in "[{,:") > MAX_VALUES:
        raise BoundError(f"it has more than {MAX_VALUES:,} values; is it a network?")
    check_depth(text, MAX_DEPTH)
    return json.loads(text)
