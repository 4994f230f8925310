"""The registry of samplers: the names that `--sampler` takes, ours and those of plug-ins."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.plan.optuna_plugins import SAMPLERS_GROUP, make_by_plugin, plugin_errors_named
from trainer.plugins import plugin_names

if TYPE_CHECKING:  # Optuna takes longer to load than `--help` to answer
    from optuna.samplers import BaseSampler

    from hpo.plan.spec import StudySpec


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """What a sampler is made from; one is made for each trial.

    Attributes:
        seed: of this trial, derived from the study's and the trial's number.
        study_seed: `--seed`, the same for all trials.
        trial_number: from 0.
        num_trials: in the study, all told.
    """

    seed: int
    study_seed: int
    trial_number: int
    num_trials: int


def _tpe(settings: SamplerSettings) -> BaseSampler:
    from optuna.samplers import TPESampler

    # A short search would end before TPE's usual ten random trials have taught it anything.
    num_random = 5 if settings.num_trials < 25 else 10
    # group: a learning rate per optimizer makes the space conditional
    return TPESampler(
        seed=settings.seed, multivariate=True, group=True, n_startup_trials=num_random
    )


def _random(settings: SamplerSettings) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=settings.seed)


SAMPLERS: Mapping[str, Callable[[SamplerSettings], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
}


def known_samplers() -> tuple[str, ...]:
    """Return our samplers' names, then those of installed plug-ins."""
    return tuple(dict.fromkeys((*SAMPLERS, *plugin_names(SAMPLERS_GROUP))))


def make_sampler(spec: StudySpec, trial_number: int) -> BaseSampler:
    """Return a sampler seeded by study seed and trial number.

    A sampler of its own for each trial makes a search with one slot repeatable, resumed or not.

    Raises:
        ConfigError, UsageError: a plug-in is missing, broken, or gives something else.
    """
    settings = SamplerSettings(
        seed=derived_seed(spec.seed, trial_number, "sampler"),
        study_seed=spec.seed,
        trial_number=trial_number,
        num_trials=spec.num_trials,
    )
    if ours := SAMPLERS.get(spec.sampler):
        return ours(settings)
    from optuna.samplers import BaseSampler

    made: BaseSampler = make_by_plugin(SAMPLERS_GROUP, spec.sampler, settings, BaseSampler)
    return made


def sampler_errors_named(name: str) -> AbstractContextManager[None]:
    """Turn what a plug-in's sampler raises into one line."""
    return nullcontext() if name in SAMPLERS else plugin_errors_named(SAMPLERS_GROUP, name)


def derived_seed(seed: int, trial_number: int, purpose: str) -> int:
    """Return a 31-bit seed for one purpose in one trial."""
    digest = hashlib.sha256(f"{seed}/{trial_number}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
