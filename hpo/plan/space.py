"""The search space: which config fields are sampled, from what, and under which condition."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.errors import UsageError
from trainer.config import EXTENSIONS, OPTIMIZERS
from trainer.errors import ConfigError
from trainer.keypath import copy_config, get_path, parse_value, set_path, split_path

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

Scalar = bool | int | float | str
Sample = Callable[["optuna.Trial", "Dimension"], Scalar]


@dataclass(frozen=True)
class Categorical:
    """One of some values; lists and objects are stored in the study as their JSON text."""

    choices: tuple[Scalar, ...]

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        """Sample one of the choices."""
        value = trial.suggest_categorical(name, self.choices)
        assert value is not None
        return value

    def distribution(self) -> BaseDistribution:
        """Return what the study records that it is sampled from."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.choices)

    def __contains__(self, value: object) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return ", ".join(str(choice) for choice in self.choices)


@dataclass(frozen=True)
class Range:
    """A number between two bounds, both included."""

    low: float
    high: float
    is_integer: bool = False
    log: bool = False
    step: float | None = None

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        """Sample a number of the range."""
        if self.is_integer:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log, step=step)
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)

    def distribution(self) -> BaseDistribution:
        """Return what the study records that it is sampled from."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.is_integer:
            step = 1 if self.step is None else int(self.step)
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=step)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def at(self, position: float) -> float:
        """Return the value at a position from 0 (the lower bound) to 1, on the range's scale."""
        low, high = self._bounds
        value = low + position * (high - low)
        return min(max(math.exp(value) if self.log else value, self.low), self.high)

    def position(self, value: float) -> float:
        """Return where a value of the range is between its bounds, from 0 to 1."""
        low, high = self._bounds
        return min(max(((math.log(value) if self.log else value) - low) / (high - low), 0.0), 1.0)

    @property
    def _bounds(self) -> tuple[float, float]:
        return (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)

    def __contains__(self, value: object) -> bool:
        # The step is Optuna's to check, which knows of rounding.
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        text = f"{self.low:g} .. {self.high:g}"
        if self.step is not None:
            text += f", step {self.step:g}"
        return text + (", log scale" if self.log else "")


@dataclass(frozen=True)
class Dimension:
    """A config field that is sampled.

    Attributes:
        key: dotted path of the field.
        values: what it is sampled from.
        when: (dotted path, value) of another dimension that must have that value, else the
            field is left as the base config has it.
    """

    key: str
    values: Categorical | Range
    when: tuple[str, Scalar] | None = None

    @property
    def name(self) -> str:
        """The parameter's name in the study; conditional ones carry their condition."""
        return f"{self.key}[{self.when[1]}]" if self.when else self.key

    def __str__(self) -> str:
        condition = f" (when {self.when[0]} = {self.when[1]})" if self.when else ""
        return f"{self.values}{condition}"


def sample_alone(trial: optuna.Trial, dimension: Dimension) -> Scalar:
    """Sample a dimension under its own name."""
    return dimension.values.suggest(trial, dimension.name)


@dataclass(frozen=True)
class SearchSpace:
    """All dimensions, those that others depend on first."""

    dimensions: tuple[Dimension, ...]

    def suggest(self, trial: optuna.Trial, sample: Sample = sample_alone) -> dict[str, Any]:
        """Sample every dimension that applies; return dotted path -> value."""
        chosen: dict[str, Any] = {}
        for dimension in sorted(self.dimensions, key=_after_what_it_needs):
            if dimension.when and chosen.get(dimension.when[0]) != dimension.when[1]:
                continue
            if _lacks_field(chosen.get("optimizer.type"), dimension.key):
                continue
            value = sample(trial, dimension)
            chosen[dimension.key] = unpack(value)
        return chosen

    def check(self, fixed: Mapping[str, object]) -> None:
        """Check values that a trial brings along, by their names in the study.

        Raises:
            ConfigError: one is not in the space.
        """
        values = {dimension.name: dimension.values for dimension in self.dimensions}
        for name, value in fixed.items():
            if name not in values:
                known = ", ".join(values)
                raise ConfigError(f"{name}: no such parameter in the search space ({known})")
            if value not in values[name]:
                raise ConfigError(f"{name}: {value!r} is not in the search space ({values[name]})")

    def is_sampled(self, key: str) -> bool:
        """Say whether a config field is a dimension."""
        return any(dimension.key == key for dimension in self.dimensions)

    def choices(self, key: str) -> tuple[Scalar, ...]:
        """Return the choices of a categorical dimension, none if it is not one."""
        for dimension in self.dimensions:
            if dimension.key == key and isinstance(dimension.values, Categorical):
                return dimension.values.choices
        return ()

    def with_dimension(self, new: Dimension) -> SearchSpace:
        """Return the space with `new` in the place of every dimension of the same field."""
        kept = [dimension for dimension in self.dimensions if dimension.key != new.key]
        return SearchSpace((*kept, new))

    def describe(self) -> dict[str, str]:
        """Return name -> values, for tables and for comparing studies."""
        return {dimension.name: str(dimension) for dimension in self.dimensions}


def _after_what_it_needs(dimension: Dimension) -> tuple[bool, bool]:
    """Order the optimizer first, as its fields depend on it, and conditional dimensions last."""
    return dimension.when is not None, dimension.key != "optimizer.type"


def _lacks_field(optimizer: str | None, key: str) -> bool:
    section, _, field = key.partition(".")
    if optimizer is None or section != "optimizer" or field == "type":
        return False
    model = OPTIMIZERS.get(optimizer)
    return model is not None and field.partition(".")[0] not in model.model_fields


def unpack(value: Scalar) -> Any:
    """Return the config's value for a sampled one: lists are stored as their JSON text."""
    return json.loads(value) if isinstance(value, str) and value[:1] in "[{" else value


def build_config(base: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base config (`neural_network` object) with sampled values put in.

    Where the optimizer is sampled, fields of the base config that it does not have are left out.
    """
    config = copy_config(base)
    for key, value in chosen.items():
        set_path(config, key, value)
    optimizer = config.get("optimizer")
    if "optimizer.type" in chosen and isinstance(optimizer, dict):
        for field in list(optimizer):
            if _lacks_field(chosen["optimizer.type"], f"optimizer.{field}"):
                del optimizer[field]
    return config


def without_extensions(config: Mapping[str, Any], *, known: frozenset[str]) -> dict[str, Any]:
    """Return a config with the contract's keys and those of ours that the engine knows."""
    result = copy_config(config)
    for key in set(EXTENSIONS) - known:
        *parents, last = split_path(key)
        node: Any = result
        for parent in parents:
            node = node.get(parent, {})
        node.pop(last, None)
    return result


def dropped_keys(config: Mapping[str, Any], *, known: frozenset[str]) -> list[str]:
    """Return what `without_extensions` leaves out of a config."""
    return [key for key in EXTENSIONS if key not in known and get_path(config, key) is not None]


# --- reading a space from text --------------------------------------------------------------


def parse_search(text: str) -> Dimension:
    """Read `KEY=SPEC` as `--search` takes it.

    SPEC is a list of values (`8,16,32`, `[128,128],[256,256]`) or a range `LOW..HIGH` with
    `:log` or `:step=S`; a range of integers gives integers.
    """
    key, separator, spec = text.partition("=")
    key = key.strip().removeprefix("neural_network.")
    if not separator or not key or not spec.strip():
        raise UsageError(f"--search {text!r}: expected KEY=SPEC, such as data.batch_size=8,16,32")
    try:
        split_path(key)
    except ConfigError as error:
        raise UsageError(f"--search: {error}") from None
    return Dimension(key, parse_values(spec.strip(), f"--search {key}"))


def parse_values(spec: str, where: str) -> Categorical | Range:
    """Read the right-hand side of a dimension.

    Raises:
        UsageError: it is neither a range nor a list of at least two values.
    """
    body, *flags = spec.split(":") if ".." in spec else [spec]
    if ".." in body:
        return _parse_range(body, flags, where)
    choices = tuple(pack(parse_value(part)) for part in split_list(spec))
    if len(choices) < 2 or len(set(choices)) != len(choices):
        raise UsageError(
            f"{where}: expected two or more different values (8,16,32) or a range "
            f"(1e-4..1e-2:log), not {spec!r}; a fixed value is given with --set"
        )
    return Categorical(choices)


def _parse_range(body: str, flags: Sequence[str], where: str) -> Range:
    low, high = (parse_value(text.strip()) for text in body.split("..", 1))
    numbers = [number for number in (low, high) if isinstance(number, int | float)]
    if len(numbers) < 2 or any(isinstance(number, bool) for number in numbers):
        raise UsageError(f"{where}: expected LOW..HIGH with two numbers, not {body!r}")
    log, step = False, None
    for flag in flags:
        name, _, value = flag.partition("=")
        if name == "log" and not value:
            log = True
        elif name == "step" and isinstance(parse_value(value), int | float):
            step = float(parse_value(value))
        else:
            raise UsageError(f"{where}: unknown {flag!r}; known: log, step=S")
    is_integer = all(isinstance(number, int) for number in numbers)
    return checked_range(low, high, is_integer=is_integer, log=log, step=step, where=where)


def checked_range(
    low: float, high: float, *, is_integer: bool, log: bool, step: float | None, where: str
) -> Range:
    """Build a range, refusing bounds that cannot be sampled."""
    if not math.isfinite(low) or not math.isfinite(high) or not math.isfinite(step or 0):
        raise UsageError(f"{where}: expected finite numbers")
    if not low < high:
        raise UsageError(f"{where}: the lower bound {low:g} is not below the upper {high:g}")
    if log and low <= 0:
        raise UsageError(f"{where}: a log scale needs a lower bound above 0, not {low:g}")
    if log and step is not None:
        raise UsageError(f"{where}: a log scale and a step exclude each other")
    if step is not None and (step <= 0 or (is_integer and step != int(step))):
        raise UsageError(f"{where}: step {step:g} does not fit the range")
    return Range(low, high, is_integer, log, step)


def pack(value: Any) -> Scalar:
    """Return a value as a study can store it: lists and objects as their JSON text."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def split_list(spec: str) -> list[str]:
    """Split at commas outside brackets and quotes: `[1,2],[3,4]` and `"a,b",c` have two parts."""
    parts, depth, current, is_quoted = [], 0, "", False
    for character in spec:
        is_quoted ^= character == '"'
        if character == "," and depth == 0 and not is_quoted:
            parts.append(current.strip())
            current = ""
            continue
        depth += (character in "[{(") - (character in "]})")
        current += character
    return [part for part in (*parts, current.strip()) if part]
