"""The settings that decide what a score is, and which of them a worker does not know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hpo.space import SearchSpace
from trainer.config import EXTENSIONS
from trainer.keypath import get_path

# Ours, with what an engine does that does not know them; None: nothing of the kind.
SCORE_KEYS: dict[str, Any] = {
    "metrics.include_background": True,
    "data.channels_first": None,
    "data.mask_values": None,
    "data.mask_threshold": None,
    "data.mask_resize": "opencv",
    "data.tiles": None,
    "data.intensity_range": None,
}


def scored_by(base: Mapping[str, Any], space: SearchSpace) -> dict[str, Any]:
    """Return the settings of ours that make a score another, with their values."""
    found = {}
    for key, default in SCORE_KEYS.items():
        value = get_path(base, key)
        if space.is_sampled(key):
            found[key] = "searched"
        elif value is not None and value != default:
            found[key] = value
    return found


def dropped(keys: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the keys of ours that a worker of these capabilities does not get."""
    unknown = set(EXTENSIONS) - set(known)
    return [key for key in keys if any(_covers(entry, key) for entry in unknown)]


def _covers(entry: str, key: str) -> bool:
    return key == entry or key.startswith(f"{entry}.")
