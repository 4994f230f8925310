"""Users' own metrics: functions of the class ids of one image, averaged over images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.config.network import Checkpoints
from trainer.direction import Direction
from trainer.errors import ConfigError
from trainer.figures import is_share
from trainer.plugins import (
    METRICS_GROUP,
    describe,
    describe_plugin,
    direction_of,
    load_plugin,
    worst_of,
)


def best_direction(checkpoints: Checkpoints, plugins: Sequence[str]) -> Direction:
    """Return which figures make an epoch the best one.

    Raises:
        ConfigError: the config says something else than the plug-in metric.
    """
    name, asked = checkpoints.best_by, checkpoints.best_direction
    if name is None or name not in plugins:
        return Direction(asked or Direction.MAXIMIZE)
    found = direction_of(name)
    if asked is not None and asked != found:
        raise ConfigError(
            f"checkpoints.best_direction: {asked} was asked for, and plug-in "
            f"{describe_plugin(METRICS_GROUP, name)} is to {found}, as its `direction` says: "
            "install the same version of it wherever it is used"
        )
    return found


def worst_figure(checkpoints: Checkpoints, plugins: Sequence[str]) -> float | None:
    """Return what the figure that makes an epoch the best one counts as where it is undefined.

    Raises:
        ConfigError: the plug-in metric says nonsense.
    """
    name = checkpoints.best_by
    if name is None or is_share(name):
        return 0.0
    return worst_of(name) if name in plugins else None


class PluginMetrics:
    """Collects the figures of `metrics.plugins`, image after image."""

    def __init__(self, names: Sequence[str]) -> None:
        """Load the plug-ins.

        Raises:
            ConfigError: one cannot be loaded.
        """
        self._functions = {name: load_plugin(METRICS_GROUP, name) for name in names}
        self._directions = {name: direction_of(name) for name in names}
        self._values: dict[str, list[float]] = {name: [] for name in names}

    @property
    def names(self) -> tuple[str, ...]:
        """Return the metrics' names."""
        return tuple(self._values)

    def __getstate__(self) -> dict[str, object]:
        """Leave the functions out of what processes send each other: not all can be pickled."""
        return {**self.__dict__, "_functions": {}}

    def update(self, predicted_NHW: NDArray[np.int64], target_NHW: NDArray[np.int64]) -> None:
        """Add a batch of predicted and true class ids.

        Raises:
            ConfigError: a plug-in fails, or gives something else than a number.
        """
        for name, function in self._functions.items():
            for predicted_HW, target_HW in zip(predicted_NHW, target_NHW, strict=True):
                try:
                    value = float(function(predicted_HW.copy(), target_HW.copy()))
                except Exception as error:
                    where = describe_plugin(METRICS_GROUP, name)
                    raise ConfigError(
                        f"metrics.plugins: plug-in {where}: {describe(error)}"
                    ) from error
                self._values[name].append(value)

    def merge(self, other: PluginMetrics) -> None:
        """Add what another process measured, on other images."""
        for name, values in self._values.items():
            values.extend(other._values[name])

    def means(self) -> dict[str, float]:
        """Return each metric's mean over the images where it is a number, else NaN.

        NaN, too, where it is to be minimized and infinite for an image: left out, the image that
        a model fails at, such as a distance to an empty mask, would make that model the better.
        """
        return {
            name: math.nan
            if math.inf in values and self._directions[name].is_lower_better
            else _mean(values)
            for name, values in self._values.items()
        }

    def of_image(self, index: int) -> dict[str, float]:
        """Return the figures of one image."""
        return {name: values[index] for name, values in self._values.items()}


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if math.isfinite(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan
