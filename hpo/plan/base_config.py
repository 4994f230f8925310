"""What options and study file fix in the worker's config, and what they search in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hpo.errors import UsageError
from hpo.plan.choices import SPELLED, names_among, refuse_owned, settled, spelled, with_choice
from hpo.plan.options import DataOptions, SearchOptions
from hpo.plan.scoring import TRANSFORM_LISTS
from hpo.plan.scoring_keys import ROTATE_DIRECTION, rotates
from hpo.plan.space import Dimension, SearchSpace, checked_range, parse_search
from hpo.plan.studyfile import StudyFile
from trainer.config import OPTIMIZERS, known_losses
from trainer.errors import ConfigError
from trainer.keypath import get_path, parse_setting, set_path
from trainer.rundir import CHECKPOINTS

SECTIONS = ("data", "optimizer", "loss", "metrics", "checkpoints")


def base_config(file: StudyFile, search: SearchOptions, data: DataOptions) -> dict[str, Any]:
    """Return the fixed part of the `neural_network` object, without paths.

    Raises:
        UsageError, ConfigError: an option that cannot be read, or a key that is not the user's.
    """
    base: dict[str, Any] = {
        "outfile": "out.txt",
        "num_epochs": search.num_epochs or file.num_epochs,
        "checkpoints": {
            "save": f"{CHECKPOINTS}/",
            "interval": 1,
            "keep": "best",
            "resume": True,  # who takes a trial over goes on where it was
        },
        "data": {
            "type": "images",
            "preload": True,
            "target_grayscale": True,
            "target_is_mask": True,
            "transforms": [
                {"resize": list(_parse_size(data.resize) or file.resize)},
                *file.transforms,
            ],
        },
        "optimizer": {},
        "loss": {},
    }
    for key, value in file.config.items():
        set_path(base, key, list(value) if isinstance(value, tuple) else value)
    if search.lr_scheduler:
        base["optimizer"]["lr_scheduler"] = {
            "type": "Exponential",
            "gamma": search.lr_scheduler_gamma,
        }
    for text in search.set or ():
        key, value = parse_setting(text)
        refuse_owned(key, "--set")
        set_path(base, key, value)
    _check_kinds(base)
    # Stated in every config, because engines differ in their defaults.
    for key, value in (("metrics.include_background", True), ("data.mask_resize", "exact")):
        if get_path(base, key) is None:
            set_path(base, key, value)
    if rotates(base) and get_path(base, ROTATE_DIRECTION) is None:
        set_path(base, ROTATE_DIRECTION, "clockwise")  # part of what drivers agree on
    for key, known in SPELLED.items():
        value = get_path(base, key)
        if isinstance(value, str):
            set_path(base, key, names_among(value, known(), key)[0])
    return base


def _check_kinds(base: Mapping[str, Any]) -> None:
    """Refuse a text or number where the plan reads on into an object or a list."""
    for kind, name, keys in ((dict, "an object", SECTIONS), (list, "a list", TRANSFORM_LISTS)):
        for key in keys:
            value = get_path(base, key, kind())
            if not isinstance(value, kind):
                raise ConfigError(f"{key}: expected {name}, received {value!r}")


def search_space(
    file: StudyFile, search: SearchOptions, data: DataOptions, base: dict[str, Any]
) -> SearchSpace:
    """Return what is sampled: the study's space with the options' dimensions in it.

    Raises:
        UsageError, ConfigError: an option that cannot be read, or nothing is left to sample.
    """
    space = file.space()
    if data.layers is not None:
        space = SearchSpace(tuple(d for d in space.dimensions if d.key != "layers"))
    if search.optimizers is not None:
        names = names_among(search.optimizers, tuple(OPTIMIZERS), "--optimizers")
        space = with_choice(space, base, "optimizer.type", names)
    if search.loss is not None:
        names = names_among(search.loss, known_losses(), "--loss")
        space = with_choice(space, base, "loss.function", names)
    if search.lr_range_min is not None or search.lr_range_max is not None:
        low = 0.001 if search.lr_range_min is None else search.lr_range_min
        high = 0.01 if search.lr_range_max is None else search.lr_range_max
        where = "--lr-range-min, --lr-range-max"
        values = checked_range(low, high, is_integer=False, log=True, step=None, where=where)
        space = space.with_dimension(Dimension("optimizer.learning_rate", values))
    for text in search.search or ():
        dimension = parse_search(text)
        refuse_owned(dimension.key, "--search")
        space = space.with_dimension(spelled(dimension))
    fixed = {parse_setting(text)[0] for text in search.set or ()}
    space = settled(SearchSpace(tuple(d for d in space.dimensions if d.key not in fixed)), base)
    if not space.dimensions:
        raise UsageError("nothing is searched: every field is fixed; see --search")
    return space


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+)\s*[,x]\s*(\d+)\s*", text)
    if match is None or "0" in (match[1], match[2]):
        raise UsageError(f"--resize: expected H,W such as 256,256, not {text!r}")
    return int(match[1]), int(match[2])
