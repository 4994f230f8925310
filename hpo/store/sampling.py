"""Samples a trial's parameters, and prunes, by reading the study's trials once for each.

Optuna reads the trials again for each question (the search space, the sampler, the trial itself),
seven statements a time, and stores each parameter in a transaction of its own.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.keys import ATTEMPT, END
from hpo.records import OUT_OF_TIME
from hpo.store.directions import direction_in
from trainer.direction import Direction
from trainer.errors import ConfigError


class SnapshotStorage(_CachedStorage):
    """Optuna's storage with its cache, which can read the trials once for several questions."""

    def __init__(self, backend: RDBStorage) -> None:
        super().__init__(backend)
        self._own = _Look()

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        del state["_own"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._own = _Look()

    @contextlib.contextmanager
    def one_look(self, study_id: int) -> Iterator[None]:
        """Let this thread see the trials of one study as they are now, until the block ends."""
        self._own.trials = self.get_all_trials(study_id, deepcopy=False)
        try:
            yield
        finally:
            self._own.trials = None

    @contextlib.contextmanager
    def draft(
        self,
        study_id: int,
        trial_id: int,
        first_rung: int | None = None,
        shown: Callable[[FrozenTrial], FrozenTrial] = lambda trial: trial,
    ) -> Iterator[FrozenTrial]:
        """Read the trials once, and yield a copy of one that gets the parameters in its place.

        Others that have reached `first_rung` and have not ended look as if they were pruned at
        their last epoch: those that wait would not be seen, and those that run be shunned. Those
        that ran out of time look complete: TPE ranks what is pruned below all that is complete,
        and would learn which values are quick, not which are good.
        Of each the sampler sees what `shown` makes of it.
        The sampler's own notes are dropped: they tell other drivers of parameters that are not
        stored yet, and here all of them will be stored at once.
        """
        with self.one_look(study_id):
            self._own.draft = copy.deepcopy(self.get_trial(trial_id))
            direction = direction_in(self, study_id)
            self._own.trials = [
                shown(_as_seen(trial, first_rung, direction)) for trial in self._own.trials or ()
            ]
            try:
                yield self._own.draft
            finally:
                self._own.draft = None

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return the study's trials by number, in those states."""
        if self._own.trials is None:
            return super().get_all_trials(study_id, deepcopy, states)
        found = [each for each in self._own.trials if states is None or each.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial, or its draft."""
        if self._is_draft(trial_id):
            assert self._own.draft is not None
            return self._own.draft
        for trial in reversed(self._own.trials or ()):
            if trial._trial_id == trial_id:
                return trial
        return super().get_trial(trial_id)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Store a parameter; a draft gets it from Optuna's `Trial`."""
        if not self._is_draft(trial_id):
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Store a note of a sampler or pruner, but not with a draft."""
        if not self._is_draft(trial_id):
            super().set_trial_system_attr(trial_id, key, value)

    def _is_draft(self, trial_id: int) -> bool:
        return self._own.draft is not None and self._own.draft._trial_id == trial_id


def _as_seen(trial: FrozenTrial, first_rung: int | None, direction: Direction) -> FrozenTrial:
    """Return a trial as `SnapshotStorage.draft` shows it."""
    if trial.state == TrialState.PRUNED and trial.values and _ran_out_of_time(trial):
        seen = copy.copy(trial)
        seen.state = TrialState.COMPLETE
        return seen
    curve = trial.intermediate_values
    is_ours = ATTEMPT in trial.user_attrs
    has_reached = first_rung is not None and max(curve, default=0) >= first_rung
    if trial.state.is_finished() or not is_ours or not has_reached:
        return trial
    seen = copy.copy(trial)
    seen.state, seen.values = TrialState.PRUNED, [direction.best(curve.values())]
    return seen


def _ran_out_of_time(trial: FrozenTrial) -> bool:
    end = trial.user_attrs.get(END)
    return isinstance(end, dict) and end.get("end") == OUT_OF_TIME


class _Look(threading.local):
    trials: list[FrozenTrial] | None = None
    draft: FrozenTrial | None = None


class UnfitValuesError(Exception):
    """A trial's values are not in the space.

    Attributes:
        number: the trial's.
        is_enqueued: it brought them along, so that another trial will do better.
    """

    def __init__(self, number: int, message: str, *, is_enqueued: bool) -> None:
        super().__init__(message)
        self.number = number
        self.is_enqueued = is_enqueued


class View(Protocol):
    """How the sampler sees trials, where it is not as they are stored."""

    def shown(self, trial: FrozenTrial) -> FrozenTrial:
        """Return a trial as the sampler sees it, a copy where it differs."""
        ...

    def store(self, trial: FrozenTrial) -> None:
        """Give a trial that was sampled what is stored of it."""
        ...


class AsStored:
    """The view of trials as they are."""

    def shown(self, trial: FrozenTrial) -> FrozenTrial:
        """Return the trial."""
        return trial

    def store(self, trial: FrozenTrial) -> None:
        """Change nothing."""


def draw(
    study: optuna.Study,
    trial_id: int,
    make_sampler: Callable[[int], BaseSampler],
    suggest: Callable[[optuna.Trial], dict[str, Any]],
    check: Callable[[Mapping[str, object]], None] = lambda fixed: None,
    first_rung: int | None = None,
    view: View | None = None,
) -> tuple[FrozenTrial, dict[str, Any]]:
    """Sample the parameters that a trial lacks, and store nothing.

    Args:
        study: its storage is a SnapshotStorage.
        trial_id: of a trial that is ours.
        make_sampler: returns the sampler of a trial's number.
        suggest: samples all dimensions that apply.
        check: raises ConfigError for values that are not in the space.
        first_rung: the epoch from which on trials are paused, None if they never are.
        view: how the sampler sees trials; None for as they are.

    Returns:
        The trial with its parameters, and what `suggest` returned.

    Raises:
        UnfitValuesError: somebody has enqueued what is not in the space, or told other trials so.
    """
    storage = study._storage
    assert isinstance(storage, SnapshotStorage)
    study._thread_local.cached_all_trials = None  # of the last trial
    view = view or AsStored()
    with storage.draft(study._study_id, trial_id, first_rung, view.shown) as trial:
        study.sampler = make_sampler(trial.number)
        brought = {**trial.params, **trial.system_attrs.get("fixed_params", {})}
        try:
            check(brought)
            chosen = suggest(optuna.Trial(study, trial_id))
            view.store(trial)
        except (ConfigError, ValueError) as error:  # Optuna's own, of distributions that differ
            raise UnfitValuesError(trial.number, str(error), is_enqueued=bool(brought)) from None
    return trial, chosen


def brought_by(trial: optuna.Trial) -> Collection[str]:
    """Return the names of the parameters that are not to be sampled: their values are there."""
    return {*trial._fixed_params, *trial.params}


def should_prune(study: optuna.Study, trial_id: int) -> bool:
    """Ask the study's pruner about a trial that runs."""
    if isinstance(study.pruner, NopPruner):
        return False
    storage = study._storage
    assert isinstance(storage, SnapshotStorage)
    with storage.one_look(study._study_id):
        # `Trial.should_prune` looks at what was reported through that very object only.
        return study.pruner.prune(study, storage.get_trial(trial_id))
