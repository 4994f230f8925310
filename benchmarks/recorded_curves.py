"""Recorded learning curves: read, compared with what a sampler proposes, and written of a study.

A file is one object: `study` (a ready-made study, whose space its trials were sampled from),
`trials` (each `params` by their names in the study, and `curve`, one score an epoch), and notes on
how they were recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.errors import UsageError
from hpo.keys import TOKEN
from hpo.plan.space import Categorical, Range, SearchSpace
from hpo.plan.studyfile import find_study, load_study
from hpo.study.common import opened_study
from hpo.study.options import StudyOptions


@dataclass(frozen=True)
class Config:
    """A configuration that was trained whole.

    Attributes:
        params: sampled values by their names in the study.
        places: the same by field, as compared: a category, or a position within its range.
        curve: score after each epoch; more is better.
    """

    params: Mapping[str, Any]
    places: Mapping[str, Any]
    curve: tuple[float, ...]

    @property
    def peak(self) -> float:
        """The score of its best epoch, as a study has it."""
        return max(self.curve)


@dataclass(frozen=True)
class Recording:
    """Configurations of one study, all trained for as many epochs."""

    name: str
    study: str
    space: SearchSpace
    configs: tuple[Config, ...]

    @property
    def num_epochs(self) -> int:
        """Epochs of each."""
        return len(self.configs[0].curve)

    def trials(self) -> list[FrozenTrial]:
        """Return them as the finished trials of a study of ours."""
        distributions = {each.name: each.values.distribution() for each in self.space.dimensions}
        found = []
        for number, config in enumerate(self.configs):
            trial = create_trial(
                params=dict(config.params),
                distributions={name: distributions[name] for name in config.params},
                value=config.peak,
                intermediate_values=dict(enumerate(config.curve, 1)),
                user_attrs={TOKEN: "recorded"},
            )
            trial.number = number
            found.append(trial)
        return found

    def nearest(self, values: Mapping[str, Any], among: Iterable[int]) -> int:
        """Return the index of the configuration that is most like the values of the fields."""
        wanted = places_of(self.space, values)
        return min(among, key=lambda i: (distance(wanted, self.configs[i].places), i))


def read_recording(path: Path) -> Recording:
    """Read a file of curves; trials that were not trained whole are left out.

    Raises:
        UsageError: it is not such a file.
    """
    try:
        content = json.loads(path.read_text())
        space = load_study(find_study(content["study"])).space()
        num_epochs = max(len(trial["curve"]) for trial in content["trials"])
        configs = []
        for trial in content["trials"]:
            params, curve = trial["params"], tuple(map(float, trial["curve"]))
            space.check(params)
            if len(curve) == num_epochs:
                values = by_field(space, params)
                configs.append(Config(params, places_of(space, values), curve))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: no recorded curves ({error!r})") from None
    return Recording(path.stem, content["study"], space, tuple(configs))


def by_field(space: SearchSpace, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters by the dotted paths of their fields."""
    keys = {dimension.name: dimension.key for dimension in space.dimensions}
    return {keys[name]: value for name, value in params.items()}


def places_of(space: SearchSpace, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of fields as they are compared: numbers by their position in their range."""
    places: dict[str, Any] = {}
    for dimension in space.dimensions:
        if dimension.key not in values:
            continue
        if dimension.when is not None and values.get(dimension.when[0]) != dimension.when[1]:
            continue
        value = values[dimension.key]
        if isinstance(dimension.values, Range):
            places[dimension.key] = dimension.values.position(value)
        elif isinstance(dimension.values, Categorical) and len(dimension.values.choices) > 1:
            places[dimension.key] = value
    return places


def distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Return 1 for each category that differs, plus how far apart each number's positions are."""
    total = 0.0
    for key in one.keys() & other.keys():
        a, b = one[key], other[key]
        is_number = isinstance(a, float) and isinstance(b, float)
        total += abs(a - b) if is_number else float(a != b)
    return total


def write_recording(options: StudyOptions, notes: Mapping[str, str], to: Path) -> int:
    """Write the curves of a study's trials to a file; return how many there were."""
    with opened_study(options) as study:
        trials = [
            {
                "number": trial.number,
                "params": trial.params,
                "curve": [
                    round(value, 6) for _, value in sorted(trial.intermediate_values.items())
                ],
            }
            for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        ]
        content = {"study": study.study_name, **notes, "trials": trials}
    to.write_text(json.dumps(content) + "\n")
    return len(trials)
