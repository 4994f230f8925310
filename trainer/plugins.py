"""Finds the user's own losses, metrics, networks and so on: entry points of installed packages.

Names are listed without importing anything; a plug-in's code is imported where its name is used.
No torch here: the driver imports this module.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from trainer.bounded import finite
from trainer.direction import Direction
from trainer.errors import ConfigError

LOSSES_GROUP = "rml_optimize.losses"
METRICS_GROUP = "rml_optimize.metrics"
DATASETS_GROUP = "rml_optimize.datasets"
NETWORKS_GROUP = "rml_optimize.networks"


def plugin_names(group: str) -> tuple[str, ...]:
    """Return the names of a group's plug-ins, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def load_plugin(group: str, name: str) -> Callable[..., Any]:
    """Import a plug-in.

    Raises:
        ConfigError: it is not installed, two packages offer the name, or it cannot be imported.
    """
    found = list(entry_points(group=group, name=name))
    if not found:
        raise ConfigError(f"plug-in {name!r} of {group} is not installed here")
    if len({entry.value for entry in found}) > 1:
        offers = " and ".join(_where(entry) for entry in found)
        raise ConfigError(f"plug-in {name!r} of {group} is offered by {offers}; remove one")
    try:
        plugin = found[0].load()
    except Exception as error:
        raise ConfigError(
            f"plug-in {describe_plugin(group, name)} cannot be loaded: {describe(error)}"
        ) from error
    if not callable(plugin):
        raise ConfigError(
            f"plug-in {describe_plugin(group, name)} is no function but {type(plugin).__name__}"
        )
    return plugin  # type: ignore[no-any-return]  # callable by the line above


def direction_of(name: str) -> Direction:
    """Return which values of a plug-in metric are the better ones: the higher if it does not say.

    Raises:
        ConfigError: it cannot be loaded, or says something else.
    """
    said = getattr(load_plugin(METRICS_GROUP, name), "direction", Direction.MAXIMIZE)
    try:
        return Direction(said)
    except ValueError:
        known = " or ".join(repr(each.value) for each in Direction)
        raise ConfigError(
            f"plug-in {describe_plugin(METRICS_GROUP, name)}: direction: expected {known}, "
            f"received {said!r:.60}"
        ) from None


def worst_of(name: str) -> float | None:
    """Return what a plug-in metric counts as where it is undefined; None if it does not say.

    Raises:
        ConfigError: it cannot be loaded, or its `worst` is no finite number.
    """
    said = getattr(load_plugin(METRICS_GROUP, name), "worst", None)
    if said is not None and finite(said) is None:
        raise ConfigError(
            f"plug-in {describe_plugin(METRICS_GROUP, name)}: worst: expected a finite number, "
            f"received {said!r:.60}"
        )
    return None if said is None else float(said)


def describe_plugin(group: str, name: str) -> str:
    """Return a plug-in's name with its package, for errors."""
    found = list(entry_points(group=group, name=name))
    return f"{name!r} ({_where(found[0])})" if found else repr(name)


def package_of(group: str, name: str) -> str | None:
    """Return the name of the package that offers a plug-in, None where there is none."""
    found = list(entry_points(group=group, name=name))
    return found[0].dist.name if found and found[0].dist else None


def describe(error: BaseException) -> str:
    """Return an error of somebody else's code as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _where(entry: EntryPoint) -> str:
    package = f" of package {entry.dist.name}" if entry.dist else ""
    return f"{entry.value}{package}"
