"""Reads one layer's `config` object; every mistake is one line that names layer and key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.errors import NetworkError
from trainer.networks.functions import read_function
from trainer.networks.initializers import read_initializer
from trainer.networks.refused import SETTINGS
from trainer.networks.spec import LINEAR, Function, Initializer

LARGEST = 2**31 - 1  # sizes beyond cannot be meant, and would only burn memory


class _Required:
    pass


REQUIRED = _Required()


def show(value: object) -> str:
    """Write a value of the file as JSON, cut to a length that fits an error line."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def is_integer(value: object) -> bool:
    """Tell whether `value` is a whole number (old Keras writes some as floats)."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


class Config:
    """Typed access to a layer's settings."""

    def __init__(
        self, values: Mapping[str, Any], where: str, *, keras_major: int, notes: list[str]
    ) -> None:
        self.values = values
        self.where = where
        self.keras_major = keras_major
        self._notes = notes

    def error(self, key: str, message: str) -> NetworkError:
        return NetworkError(f"{self.where}: {key}: {message}")

    def refusal(self, name: str, key: str = "") -> NetworkError:
        """Return the error of a setting that stands in the list of what is refused."""
        refusal = SETTINGS[name]
        key = key or refusal.key
        return self.error(key, f"{refusal.message()} (received {show(self.values.get(key))})")

    def with_value(self, key: str, value: object) -> Config:
        """Return a config with this one value: reads the items of a list one by one."""
        return Config({key: value}, self.where, keras_major=self.keras_major, notes=[])

    def note(self, message: str) -> None:
        """Record something that the reader of the log should know, but that is no error."""
        self._notes.append(f"{self.where}: {message}")

    def get(self, key: str, default: Any = None) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def _need(self, key: str, default: Any, expected: str) -> Any:
        value = self.get(key, default)
        if isinstance(value, _Required):
            raise self.error(key, f"missing; expected {expected}")
        return value

    def integer(self, key: str, default: int | _Required = REQUIRED, minimum: int = 1) -> int:
        expected = f"a whole number from {minimum} to {LARGEST}"
        value = self._need(key, default, expected)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not is_integer(value) or not minimum <= value <= LARGEST:
            raise self.error(key, f"expected {expected}, received {show(value)}")
        return int(value)

    def integers(
        self, key: str, rank: int, default: int | _Required = REQUIRED, minimum: int = 1
    ) -> tuple[int, ...]:
        """Read `rank` whole numbers; a single one stands for all."""
        expected = f"{rank} whole numbers from {minimum} on"
        value = self._need(key, default, expected)
        if is_integer(value):
            value = [value] * rank
        if (
            not isinstance(value, list)
            or len(value) != rank
            or not all(is_integer(v) and minimum <= v <= LARGEST for v in value)
        ):
            raise self.error(key, f"expected {expected}, received {show(value)}")
        return tuple(int(v) for v in value)

    def integer_list(self, key: str) -> tuple[int, ...]:
        """Read a list of any whole numbers, such as axes or a target shape."""
        value = self._need(key, REQUIRED, "a list of whole numbers")
        value = [value] if is_integer(value) else value
        if not isinstance(value, list) or not all(
            is_integer(v) and abs(v) <= LARGEST for v in value
        ):
            raise self.error(key, f"expected a list of whole numbers, received {show(value)}")
        if len(value) > 16:
            raise self.error(key, f"expected at most 16 numbers, received {len(value)}")
        return tuple(int(v) for v in value)

    def pairs(self, key: str, rank: int, default: int) -> tuple[tuple[int, int], ...]:
        """Read (before, after) for each spatial axis: one number, one each, or pairs."""
        value = self.get(key, default)
        if is_integer(value):
            value = [value] * rank
        expected = f"{rank} numbers or {rank} pairs of them, from 0 on"
        if not isinstance(value, list) or len(value) != rank:
            raise self.error(key, f"expected {expected}, received {show(value)}")
        pairs = [[item, item] if is_integer(item) else item for item in value]
        for pair in pairs:
            if (
                not isinstance(pair, list)
                or len(pair) != 2
                or not all(is_integer(v) and 0 <= v <= LARGEST for v in pair)
            ):
                raise self.error(key, f"expected {expected}, received {show(value)}")
        return tuple((int(a), int(b)) for a, b in pairs)

    def number(
        self,
        key: str,
        default: float | _Required = REQUIRED,
        minimum: float = -math.inf,
        maximum: float = math.inf,
    ) -> float:
        expected = "a finite number"
        if minimum > -math.inf or maximum < math.inf:
            expected = f"a number from {minimum:g} to {maximum:g}"
        value = self._need(key, default, expected)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"expected {expected}, received {show(value)}")
        if abs(value) > 1e30 or not minimum <= value <= maximum:  # also NaN and infinity
            raise self.error(key, f"expected {expected}, received {show(value)}")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return None if self.values.get(key) is None else self.number(key)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool) and value not in (0, 1):
            raise self.error(key, f"expected true or false, received {show(value)}")
        return bool(value)

    def choice(self, key: str, valid: Sequence[str], default: str) -> str:
        value = self.get(key, default)
        lowered = value.lower() if isinstance(value, str) else value
        if lowered not in valid:
            names = ", ".join(valid)
            raise self.error(key, f"expected one of {names}; received {show(value)}")
        return str(lowered)

    def activation(self, key: str = "activation") -> Function:
        value = self.values.get(key)
        if value is None:
            return LINEAR
        return read_function(value, keras_major=self.keras_major, error=self._error_for(key))

    def initializer(self, key: str, default: Initializer) -> Initializer:
        value = self.values.get(key)
        if value is None:
            return default
        return read_initializer(value, default, error=self._error_for(key))

    def _error_for(self, key: str) -> Any:
        return lambda message: self.error(key, message)

    def channels_last(self) -> None:
        """Refuse the other layout: axis numbers all over the file would mean something else."""
        if self.get("data_format", "channels_last") != "channels_last":
            raise self.refusal("data_format")

    def note_ignored(self) -> None:
        """Say once per layer that its regularizers and constraints have no effect here."""
        for key, value in self.values.items():
            if key.endswith(("_regularizer", "_constraint")) and value is not None:
                self.note(f"{key} is ignored (the optimizer's weight_decay regularizes instead)")
