"""The registry of trackers: the names that `--tracker` takes, ours and those of plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hpo.errors import HpoError, UsageError
from hpo.trackers import TrackedSearch, Tracker
from trainer.errors import TrainerError
from trainer.extras import how_to_install
from trainer.plugins import describe, describe_plugin, load_plugin, plugin_names

TRACKERS_GROUP = "rml_optimize.trackers"
NO_TRACKER = "none"

Factory = Callable[[TrackedSearch], Tracker]


def _load_tensorboard() -> Factory:
    try:
        from hpo.trackers.tensorboard import TensorBoard
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--tracker tensorboard: {error.name} is not installed; "
            f"try {how_to_install('tensorboard')}"
        ) from None
    return TensorBoard


TRACKERS: Mapping[str, Callable[[], Factory]] = {"tensorboard": _load_tensorboard}


def known_trackers() -> tuple[str, ...]:
    """Return our trackers' names, then those of installed plug-ins, then that of none."""
    return tuple(dict.fromkeys((*TRACKERS, *plugin_names(TRACKERS_GROUP), NO_TRACKER)))


def load_tracker(name: str) -> Factory:
    """Import a tracker.

    Raises:
        UsageError: the package that it needs is not installed.
        ConfigError: it is a plug-in that is missing or cannot be imported.
    """
    if name in TRACKERS:
        return TRACKERS[name]()
    return load_plugin(TRACKERS_GROUP, name)


def make_trackers(names: Sequence[str], search: TrackedSearch) -> dict[str, Tracker]:
    """Make the trackers of a search.

    Raises:
        UsageError, ConfigError: one is missing, broken, or gives something else.
    """
    return {name: _make(name, search) for name in names}


def _make(name: str, search: TrackedSearch) -> Tracker:
    factory = load_tracker(name)
    where = f"--tracker: {describe_plugin(TRACKERS_GROUP, name)}"
    try:
        tracker = factory(search)
    except (HpoError, TrainerError):
        raise
    except Exception as error:
        raise UsageError(f"{where}: {describe(error)}") from error
    if not isinstance(tracker, Tracker):
        raise UsageError(
            f"{where}: expected a subclass of hpo.trackers.Tracker, "
            f"received {type(tracker).__name__}"
        )
    return tracker
