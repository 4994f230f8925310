"""Checks that all trials of a search are scored on the same pixels and classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpo.errors import UsageError
from hpo.plan.space import Categorical, Dimension, SearchSpace, build_config, unpack
from trainer.data.transforms import READING
from trainer.keypath import get_path, set_path
from trainer.networks import NetworkFacts

AT_SIZE = "metrics.at_size"
TRANSFORM_LISTS = ("data.transforms", "data.input_transforms", "data.target_transforms")
# What decides which pixels a mask has.
_GRID_STEPS = tuple(step for step in READING if step != "convert_color")
# Fields that decide what a score is of, so that trials of different values have no common one.
_SCORED_BY = {
    "data.mask_values": "which classes the masks hold",
    "data.mask_threshold": "what of the masks is foreground",
    "data.target_is_mask": "what the masks hold",
    "data.target_grayscale": "what the masks hold",
    "data.follow_symlinks": "which images are read",
    "loss.ignore_index": "which pixels count",
    "metrics": "how the score is computed",
}


def settle_score(base: dict[str, Any], space: SearchSpace) -> list[str]:
    """Have trials that are trained at different sizes scored at the images' own; say so.

    Raises:
        UsageError: trials would have scores that cannot be compared.
    """
    for dimension in space.dimensions:
        for key, what in _SCORED_BY.items():
            if dimension.key == key or dimension.key.startswith(f"{key}."):
                raise UsageError(
                    f"--search {dimension.key}: it decides {what}, so its trials could not be "
                    "compared; fix it with --set, or make two studies"
                )
    searched = [d.key for d in space.dimensions if _changes_grid(d, base)]
    if not searched:
        return []
    wanted = get_path(base, AT_SIZE)
    if wanted not in (None, "images"):
        raise UsageError(
            f"--search {searched[0]}: its trials see different pixels of the masks, so they can "
            f"be compared at the images' own size only; drop --set {AT_SIZE}={wanted}"
        )
    set_path(base, AT_SIZE, "images")
    return [
        f"{searched[0]} is searched, and with it the pixels of the masks: so all trials are "
        f"scored at the images' own size ({AT_SIZE}: images)"
    ]


def check_channels(facts: Mapping[str, NetworkFacts]) -> None:
    """Refuse networks of one channel beside those of several: they average other classes.

    Raises:
        UsageError: there are both.
    """
    single = [name for name, found in facts.items() if found.output_shape[-1] == 1]
    several = [name for name in facts if name not in single]
    if single and several:
        raise UsageError(
            f"layers: {single[0]} has one channel, and is scored by the foreground alone, "
            f"{several[0]} has several, and is scored by its classes' average: their trials "
            "could not be compared; search networks with as many channels as each other"
        )


def _changes_grid(dimension: Dimension, base: Mapping[str, Any]) -> bool:
    if dimension.key == "data.mask_resize":
        return True
    if not dimension.key.startswith(TRANSFORM_LISTS):
        return False
    if not isinstance(dimension.values, Categorical):
        return any(f".{step}" in dimension.key for step in _GRID_STEPS)
    grids = [
        _grid(build_config(base, {dimension.key: unpack(choice)}))
        for choice in dimension.values.choices
    ]
    return any(grid != grids[0] for grid in grids)


def _grid(config: Mapping[str, Any]) -> list[Any]:
    return [
        [entry for entry in get_path(config, key) or [] if _is_grid_step(entry)]
        for key in TRANSFORM_LISTS
    ]


def _is_grid_step(entry: Any) -> bool:
    return isinstance(entry, Mapping) and any(step in entry for step in _GRID_STEPS)
