"""Notices that trials of different values have the same curve: a searched value has no effect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial

from hpo.wording import describe_values

MIN_VALUES = 2  # other than 0 that a curve must have, to be no accident
MAX_NAMED = 4  # fields in a message


@dataclass
class SameCurves:
    """The curves of a study's trials so far; not to be called from several threads at once."""

    _seen: dict[tuple[float, ...], dict[int, _Seen]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    _has_warned: bool = False

    @classmethod
    def of(cls, trials: Iterable[FrozenTrial]) -> SameCurves:
        """Begin with the trials that a study has; what they have in common is known by now."""
        found = cls()
        for trial in trials:
            if trial.state.is_finished():
                found._add(trial.number, trial.params, trial.intermediate_values)
        return found

    def add(
        self, number: int, params: Mapping[str, Any], curve: Mapping[int, float]
    ) -> str | None:
        """Take a trial that has ended, or pauses; return a warning, once."""
        if self._has_warned:
            return None
        other = self._add(number, params, curve)
        if other is None:
            return None
        self._has_warned = True
        self._seen.clear()
        first, second = sorted((number, other.number))
        mine, its = ({k: p.get(k, "–") for k in _differing(params, other.params)}
                     for p in (params, other.params))  # fmt: skip
        shown = {n: describe_values(dict(list(values.items())[:MAX_NAMED]))
                 for n, values in ((number, mine), (other.number, its))}  # fmt: skip
        return (
            f"trials {first} and {second} have the same scores after each epoch, though their "
            f"values differ ({shown[first]}; {shown[second]}): what is searched seems to have no "
            "effect on the training, so look whether the worker uses it"
        )

    def _add(
        self, number: int, params: Mapping[str, Any], curve: Mapping[int, float]
    ) -> _Seen | None:
        """Remember a curve; return another trial that has the same one with other values."""
        values = tuple(curve[epoch] for epoch in sorted(curve))
        beginning = _telling(values)
        if beginning is None:
            return None
        alike = self._seen[beginning]
        found = next(
            (
                each
                for each in alike.values()
                if each.number != number
                and all(a == b for a, b in zip(each.values, values, strict=False))
                and _differing(each.params, params)
            ),
            None,
        )
        alike[number] = _Seen(number, dict(params), values)
        return found


@dataclass(frozen=True)
class _Seen:
    number: int
    params: Mapping[str, Any]
    values: tuple[float, ...]


def _telling(values: tuple[float, ...]) -> tuple[float, ...] | None:
    """Return the beginning of a curve up to where chance no longer makes it another's, if any.

    Zeros are of networks that see nothing yet, and one score again and again is of those that see
    one class everywhere.
    """
    seen: set[float] = set()
    for index, value in enumerate(values):
        seen |= {value} - {0.0}
        if len(seen) >= MIN_VALUES:
            return values[: index + 1]
    return None


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name in dict.fromkeys((*first, *second))
        if (name in first) != (name in second) or first.get(name) != second.get(name)
    ]
