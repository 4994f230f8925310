"""The registry of pruners: the names that `--pruner` takes, ours and those of plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.plan.optuna_plugins import PRUNERS_GROUP, make_by_plugin, plugin_errors_named
from trainer.plugins import plugin_names

if TYPE_CHECKING:  # Optuna takes longer to load than `--help` to answer
    from optuna.pruners import BasePruner

    from hpo.plan.spec import StudySpec

NO_PRUNER = "none"
PROMOTION = "asha"  # asynchronous successive halving: `hpo.plan.promotion`


@dataclass(frozen=True, kw_only=True)
class PrunerSettings:
    """What a pruner is made from; epochs are its steps, counted from 1.

    Attributes:
        num_warmup_epochs: epochs after which no trial should be pruned yet.
        num_epochs: of each trial.
        num_trials: in the study, all told.
    """

    num_warmup_epochs: int
    num_epochs: int
    num_trials: int


def _median(settings: PrunerSettings) -> BasePruner:
    from optuna.pruners import MedianPruner

    # A short search must not be starved: half of its trials run whole, whatever they promise.
    num_whole = max(3, min(10, settings.num_trials // 2))
    first_pruned = settings.num_warmup_epochs + 1
    return MedianPruner(num_whole, n_warmup_steps=first_pruned, n_min_trials=3)


def _hyperband(settings: PrunerSettings) -> BasePruner:
    from optuna.pruners import HyperbandPruner

    first_pruned = settings.num_warmup_epochs + 1
    return HyperbandPruner(
        min_resource=min(first_pruned, settings.num_epochs), max_resource=settings.num_epochs
    )


def _none(settings: PrunerSettings) -> BasePruner:
    from optuna.pruners import NopPruner

    return NopPruner()


DEFAULT_PRUNER, EARLIER_DEFAULT = PROMOTION, "median"

# What stops the trials of a worker that cannot go on with one. On recorded curves median pruning
# loses the best trial less often than successive halving without promotion.
PRUNERS: Mapping[str, Callable[[PrunerSettings], BasePruner]] = {
    PROMOTION: _median,
    "median": _median,
    "hyperband": _hyperband,
    NO_PRUNER: _none,
}


def known_pruners() -> tuple[str, ...]:
    """Return our pruners' names, then those of installed plug-ins."""
    return tuple(dict.fromkeys((*PRUNERS, *plugin_names(PRUNERS_GROUP))))


def make_pruner(spec: StudySpec, *, pauses: bool = False) -> BasePruner:
    """Return the study's pruner, or one that stops no trial where they are paused.

    Raises:
        ConfigError, UsageError: a plug-in is missing, broken, or gives something else.
    """
    if pauses:
        from optuna.pruners import NopPruner

        return NopPruner()
    settings = PrunerSettings(
        num_warmup_epochs=spec.num_warmup_epochs,
        num_epochs=spec.num_epochs,
        num_trials=spec.num_trials,
    )
    if ours := PRUNERS.get(spec.pruner):
        return ours(settings)
    from optuna.pruners import BasePruner

    made: BasePruner = make_by_plugin(PRUNERS_GROUP, spec.pruner, settings, BasePruner)
    return made


def pruner_errors_named(name: str) -> AbstractContextManager[None]:
    """Turn what a plug-in's pruner raises into one line."""
    return nullcontext() if name in PRUNERS else plugin_errors_named(PRUNERS_GROUP, name)
