"""Lets the sampler learn one thing from the learning rates of all optimizers.

A study has each optimizer's learning rate under a name of its own, as the real value. Sampled so,
the rates of Adam say nothing of SGD's, and of 50 trials each optimizer has a dozen to learn from.
The sampler is shown one parameter in their place: the position within the optimizer's own range,
from 0 to 1. What the study stores, and all that read it, are as without.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.plan.space import Dimension, Range, Scalar, SearchSpace, sample_alone
from hpo.store.sampling import brought_by

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from hpo.plan.spec import StudySpec

TPE = "tpe"  # plug-ins know the parameters by their names in the study


@dataclass(frozen=True)
class SharedRanges:
    """The ranges of one field under several values of another, sampled as one.

    Attributes:
        dimensions: those ranges, by their names in the study.
    """

    dimensions: Mapping[str, Dimension]

    @classmethod
    def of(cls, space: SearchSpace) -> SharedRanges:
        """Find them: two or more of the same field, all under conditions."""
        alone = {each.key for each in space.dimensions if each.when is None}
        ranges = [
            each
            for each in space.dimensions
            if each.key not in alone
            and isinstance(each.values, Range)
            and not each.values.is_integer
            and each.values.step is None
        ]
        counts = Counter(each.key for each in ranges)
        return cls({each.name: each for each in ranges if counts[each.key] > 1})

    @classmethod
    def seen_by(cls, spec: StudySpec) -> SharedRanges:
        """Return those of a search: none for a sampler that is not ours to know."""
        shares = spec.shares_ranges and spec.sampler == TPE
        return cls.of(spec.space) if shares else cls({})

    def shown(self, trial: FrozenTrial) -> FrozenTrial:
        """Return a trial as the sampler sees it."""
        from optuna.distributions import FloatDistribution

        names = [
            name
            for name in self.dimensions.keys() & trial.params.keys()
            if trial.params[name] in self.dimensions[name].values  # a script's may be anything
        ]
        if not names:
            return trial
        seen = copy.copy(trial)
        seen.params, distributions = dict(trial.params), dict(trial.distributions)
        for name in names:
            dimension = self.dimensions[name]
            assert isinstance(dimension.values, Range)
            seen.params[dimension.key] = dimension.values.position(seen.params.pop(name))
            del distributions[name]
            distributions[dimension.key] = FloatDistribution(0.0, 1.0)
        seen.distributions = distributions
        return seen

    def sample(self, trial: optuna.Trial, dimension: Dimension) -> Scalar:
        """Sample a dimension: a shared one by its position, unless the trial brought its value."""
        if dimension.name not in self.dimensions or dimension.name in brought_by(trial):
            return sample_alone(trial, dimension)
        assert isinstance(dimension.values, Range)
        return dimension.values.at(trial.suggest_float(dimension.key, 0.0, 1.0))

    def store(self, trial: FrozenTrial) -> None:
        """Give a trial that was sampled the names and values that the study has."""
        conditions = {
            each.key: each
            for each in self.dimensions.values()
            if each.when is not None and trial.params.get(each.when[0]) == each.when[1]
        }
        params, distributions = dict(trial.params), dict(trial.distributions)
        for key, dimension in conditions.items():
            if key in params:
                assert isinstance(dimension.values, Range)
                params[dimension.name] = dimension.values.at(params.pop(key))
                del distributions[key]
                distributions[dimension.name] = dimension.values.distribution()
        trial.params, trial.distributions = params, distributions
