"""Configurations to try before the sampler proposes any: a study's own, `--try`, `--like`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpo.errors import UsageError
from hpo.plan.choices import SPELLED, names_among
from hpo.plan.options import SearchOptions
from hpo.plan.space import Categorical, Dimension, Range, Scalar, SearchSpace, pack, split_list
from hpo.plan.studyfile import STUDY_FILE, StudyFile
from hpo.store.first_trials import FirstTrial
from hpo.store.study import best_first
from trainer.config.messages import hint
from trainer.direction import Direction
from trainer.errors import ConfigError
from trainer.keypath import get_path, parse_setting

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

TRY = "--try"
# Of another study's best configurations, tried first; five delay what this study finds itself.
NUM_LIKE = 3
# Fields as `list_acc.json` names them, which are none of the config.
BRIEF = {
    "optimizer": "optimizer.type",
    "lr": "optimizer.learning_rate",
    "loss": "loss.function",
}


def first_trials(
    file: StudyFile, search: SearchOptions, space: SearchSpace, base: Mapping[str, Any]
) -> tuple[FirstTrial, ...]:
    """Return what `--try` names, then what the study declares.

    What the study declares and the command line has taken from the space is left out.

    Raises:
        UsageError: a field is not searched, or a value is not in the space.
    """
    tries = [
        as_params(parse_try(text), space, base, f"{TRY} {text!r}")
        for text in search.try_first or ()
    ]
    for number, fields in enumerate(file.first, 1):
        where = f"{STUDY_FILE}: first, entry {number}"
        as_params(fields, file.space(), file.config, where)
        with contextlib.suppress(UsageError):
            tries.append(as_params(fields, space, base, where))
    return tuple(map(FirstTrial, tries))


def best_like(
    space: SearchSpace, trials: Sequence[FrozenTrial], name: str, direction: Direction
) -> list[FirstTrial]:
    """Return another study's best configurations, with the fields that this one searches.

    Raises:
        UsageError: none of them is in this study's space.
    """
    found: list[FirstTrial] = []
    dimensions = {each.name: each.values for each in space.dimensions}
    for trial in best_first(trials, direction):
        values = {key: value for key, value in trial.params.items() if key in dimensions}
        fits = all(is_in(dimensions[key], value) for key, value in values.items())
        if not values or not fits:
            continue
        if all(values != each.values for each in found):
            found.append(FirstTrial(values))
        if len(found) == NUM_LIKE:
            break
    if not found:
        raise UsageError(
            f"--like: study {name!r} has no finished trial whose values are in this search's "
            f"space ({', '.join(dimensions)})"
        )
    return found


def parse_try(text: str) -> dict[str, Any]:
    """Read `KEY=VALUE,…`, as `--try` takes it; a comma within brackets separates nothing.

    Raises:
        UsageError: it cannot be read, or names a field twice.
    """
    fields: dict[str, Any] = {}
    try:
        for part in split_list(text):
            key, value = parse_setting(part)
            if key in fields:
                raise UsageError(f"{TRY} {text!r}: {key} is there twice")
            fields[key] = value
    except ConfigError:
        fields = {}
    if not fields:
        raise UsageError(
            f"{TRY} {text!r}: expected KEY=VALUE,KEY=VALUE, such as "
            "optimizer.type=Adam,optimizer.learning_rate=0.001"
        )
    return fields


def as_params(
    fields: Mapping[str, Any], space: SearchSpace, base: Mapping[str, Any], where: str
) -> dict[str, Scalar]:
    """Return the values of some fields by their names in the study; others are to be sampled.

    Args:
        fields: dotted path -> value.
        space: the study's.
        base: the fixed part of the config; a field that has that very value is left out.
        where: what a message begins with.

    Raises:
        UsageError: a field is not searched, or its value is not in the space.
    """
    given = {key: _spelled(key, value, where) for key, value in fields.items()}
    params: dict[str, Scalar] = {}
    for key, value in given.items():
        found = [each for each in space.dimensions if each.key == key]
        if not found:
            _refuse_fixed(key, value, space, base, where)
            continue
        dimension = _meant(found, given, where)
        packed = pack(value)
        if not is_in(dimension.values, packed):
            raise UsageError(f"{where}: {key}: {value!r} is not in the search space ({dimension})")
        params[dimension.name] = packed
    return params


def is_in(values: Categorical | Range, value: Scalar) -> bool:
    """Say whether a value is one that could have been sampled; Python takes True for 1."""
    if isinstance(values, Categorical):
        return any(value == each and _is_bool(value) == _is_bool(each) for each in values.choices)
    if _is_bool(value) or value not in values:
        return False
    step = values.step or (1.0 if values.is_integer else None)
    if step is None:
        return True
    num_steps = (float(value) - values.low) / step
    return abs(num_steps - round(num_steps)) < 1e-8


def _is_bool(value: Scalar) -> bool:
    return isinstance(value, bool)


def _spelled(key: str, value: Any, where: str) -> Any:
    known = SPELLED.get(key)
    if known is None or not isinstance(value, str):
        return value
    return names_among(value, known(), f"{where}: {key}")[0]


def _meant(found: list[Dimension], given: Mapping[str, Any], where: str) -> Dimension:
    """Return the dimension of a field that applies with the other values given."""
    for dimension in found:
        if dimension.when is None or given.get(dimension.when[0]) == dimension.when[1]:
            return dimension
    condition = found[0].when
    assert condition is not None
    key, needed = condition[0], ", ".join(str(each.when[1]) for each in found if each.when)
    if key in given:
        raise UsageError(
            f"{where}: {found[0].key} is not searched with {key} = {given[key]}, only with "
            f"{needed}"
        )
    raise UsageError(f"{where}: {found[0].key} depends on {key}; add {key}=… ({needed})")


def _refuse_fixed(
    key: str, value: Any, space: SearchSpace, base: Mapping[str, Any], where: str
) -> None:
    known = list(dict.fromkeys(each.key for each in space.dimensions))
    fields = [each for each in known if each.endswith(f".{key}") or each.startswith(f"{key}.")]
    meant = [BRIEF[key]] if key in BRIEF else fields
    if meant:
        raise UsageError(f"{where}: {key} is no field; did you mean {' or '.join(meant)}?")
    fixed = get_path(base, key)
    if fixed is not None and fixed == value:
        return
    if fixed is not None:
        raise UsageError(f"{where}: {key} is not searched, it is {fixed!r} in all trials")
    raise UsageError(f"{where}: {key} is not searched; {hint(key, known)}")
