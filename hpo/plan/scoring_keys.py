"""The settings that decide what a score is, and which of them a worker does not know."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hpo.errors import UsageError
from hpo.launchers import Launcher
from hpo.plan.scoring import AT_SIZE
from hpo.plan.space import SearchSpace
from hpo.plan.spec import StudySpec
from trainer.config import EXTENSIONS
from trainer.keypath import get_path

# Ours, with what an engine does that does not know them; None: nothing of the kind.
ROTATE_DIRECTION = "data.rotate_direction"
SCORE_KEYS: dict[str, Any] = {
    "metrics.include_background": True,
    "data.channels_first": None,
    "data.mask_values": None,
    "data.mask_threshold": None,
    "data.mask_resize": "opencv",
    ROTATE_DIRECTION: "clockwise",
    "data.tiles": None,
    "data.intensity_range": None,
}


def rotates(config: Mapping[str, Any]) -> bool:
    """Say whether a config turns images by a fixed angle."""
    data = config.get("data", {})
    lists = [data.get(f"{part}transforms") for part in ("", "input_", "target_")]
    entries = [entry for steps in lists if isinstance(steps, list) for entry in steps]
    return any(isinstance(entry, dict) and "rotate" in entry for entry in entries)


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


def refuse_worker_of_other_sizes(spec: StudySpec, launcher: Launcher) -> None:
    """Refuse to search sizes with a worker that cannot score all of them at one."""
    if get_path(spec.base, AT_SIZE) == "images" and dropped([AT_SIZE], launcher.capabilities()):
        raise UsageError(
            f"this worker does not know {AT_SIZE}, so it cannot score trials at the images' own "
            "size, and trials of different sizes cannot be compared; fix the size, or take our "
            "own worker"
        )


def warn_of_dropped_scoring(
    spec: StudySpec, launcher: Launcher, warn: Callable[[str], None]
) -> None:
    """Say which settings the worker does not get without which its scores are others."""
    known = launcher.capabilities()
    for key, value in scored_by(spec.base, spec.space).items():
        if dropped([key], known):
            warn(
                f"{key}={json.dumps(value)} changes the score; this worker does not know it and "
                "does not get it, so its scores are not what the plan says"
            )
