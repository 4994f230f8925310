"""What a search tells trackers of, and which it tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpo.errors import UsageError
from hpo.plan.choices import check_name
from hpo.plan.space import Categorical, Dimension
from hpo.plan.spec import StudySpec, flatten
from hpo.trackers import SearchedField, TrackedSearch
from hpo.trackers.registry import NO_TRACKER, known_trackers, load_tracker

OPTION = "--tracker"


def chosen_trackers(given: Sequence[str] | None, of_study: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the trackers of a search, each once: those given, else the study's.

    Raises:
        UsageError, ConfigError: no such tracker, or it cannot be loaded.
    """
    names = tuple(dict.fromkeys(of_study if given is None else given))
    for name in names:
        check_name(name, known_trackers(), OPTION)
    if NO_TRACKER in names:
        if len(names) > 1:
            raise UsageError(f"{OPTION}: {NO_TRACKER} excludes others ({', '.join(names)})")
        return ()
    for name in names:
        load_tracker(name)
    return names


def tracked_search(
    spec: StudySpec, settings: Mapping[str, str], study_id: str = ""
) -> TrackedSearch:
    """Return what a tracker knows of a search: nothing of its database.

    Args:
        spec: the search.
        settings: rows of the table that is printed at its start.
        study_id: of the study in the database.
    """
    by_field: dict[str, list[Dimension]] = {}
    for dimension in spec.space.dimensions:
        by_field.setdefault(dimension.key, []).append(dimension)
    return TrackedSearch(
        study=spec.name,
        study_id=study_id,
        output=spec.folders.output,
        score=spec.objective.key,
        direction=spec.objective.direction,
        num_trials=None if spec.is_open_ended else spec.num_trials,
        num_epochs=spec.num_epochs,
        settings=settings,
        searched={key: _field(dimensions) for key, dimensions in by_field.items()},
        config=flatten(spec.base),
    )


def _field(dimensions: Sequence[Dimension]) -> SearchedField:
    """Return what a field is sampled from, whatever the others are."""
    choices: dict[bool | int | float | str, None] = {}
    bounds: list[float] = []
    is_log = False
    for values in (dimension.values for dimension in dimensions):
        if isinstance(values, Categorical):
            choices |= dict.fromkeys(values.choices)
        else:
            bounds += [values.low, values.high]
            is_log = is_log or values.log
    if not bounds:
        return SearchedField(choices=tuple(choices))
    # a number under one condition, and one of some under another
    bounds += [float(each) for each in choices if isinstance(each, int | float)]
    return SearchedField(low=min(bounds), high=max(bounds), log=is_log)
