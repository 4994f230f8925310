"""Searches in simulated time: a sampler, a pruner or the rule of promotion, on recorded curves.

An epoch costs one unit on every slot. What the sampler proposes becomes the nearest configuration
of the pool that was not used yet, and the trial has that one's values from then on, so that the
sampler learns from what was really trained. All samplers and pruners are the program's own.
"""

from __future__ import annotations

import contextlib
import copy
import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState
from recorded_curves import Recording

from hpo.plan.promotion import Standing, may_go_on, rungs, to_promote
from hpo.plan.shared_ranges import SharedRanges

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a search is done.

    Attributes:
        make_sampler: of (repetition, trial number); None takes the pool in its random order.
        pruner: stops trials for good; None lets them run.
        promotes: trials are paused at rungs, and the best go on.
        goes_on: also after all are started and no quota is left.
        shares: the sampler is shown shared ranges.
        first: values by field that are tried first.
    """

    make_sampler: Callable[[int, int], BaseSampler] | None = None
    make_pruner: Callable[[], optuna.pruners.BasePruner] | None = None
    promotes: bool = False
    goes_on: bool = True
    shares: bool = False
    first: Sequence[dict[str, Any]] = ()


@dataclass
class Trace:
    """What came of a search.

    Attributes:
        improvements: (cost so far, best score so far), where it got better; cost is time times
            slots, idle ones too.
        num_epochs: that were trained, of all trials.
        cost: at the end of the search.
        curves: epochs of each trial, by number.
        used: index of each trial's configuration.
    """

    improvements: list[tuple[float, float]] = field(default_factory=list)
    num_epochs: int = 0
    cost: float = 0.0
    curves: list[int] = field(default_factory=list)
    used: list[int] = field(default_factory=list)

    def cost_until(self, score: float) -> float | None:
        """Return the cost at which a score was reached, None if it never was."""
        return next((cost for cost, best in self.improvements if best >= score), None)

    def best_at(self, cost: float) -> float:
        """Return the best score at some cost, 0 before the first."""
        return max((best for at, best in self.improvements if at <= cost), default=0.0)


class _Shown(InMemoryStorage):
    """Optuna's trials, or what the sampler is to see of them."""

    shown: list[FrozenTrial] | None = None

    @contextlib.contextmanager
    def showing(self, trials: list[FrozenTrial]) -> Iterator[None]:
        self.shown = trials
        try:
            yield
        finally:
            self.shown = None

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Any = None
    ) -> list[FrozenTrial]:
        trials = super().get_all_trials(study_id, False) if self.shown is None else self.shown
        return [trial for trial in trials if states is None or trial.state in states]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._get_trial(trial_id)


class Replay:
    """One search on a pool of recorded configurations."""

    def __init__(
        self,
        recording: Recording,
        pool: Sequence[int],
        method: Method,
        repetition: int,
        num_trials: int,
    ) -> None:
        """Prepare it; the pool's order is that of random search."""
        self.recording, self.method, self.repetition = recording, method, repetition
        self.left = list(pool)
        self.num_trials = num_trials
        self.storage = _Shown()
        self.study = optuna.create_study(
            direction="maximize",
            storage=self.storage,
            study_name=f"replay-{repetition}",
            pruner=method.make_pruner() if method.make_pruner else optuna.pruners.NopPruner(),
        )
        self.shared = SharedRanges.of(recording.space) if method.shares else SharedRanges({})
        self.rungs = rungs(recording.num_epochs) if method.promotes else ()
        self.trials: list[FrozenTrial] = []
        self.states: list[Any] = []
        self.stateless: set[int] = set()  # paused trials that start anew if they go on
        self.trace = Trace()

    def run(self, num_slots: int) -> Trace:
        """Search on some slots until no trial is left to start or to go on with."""
        events: list[tuple[int, int, int]] = []  # time, order, trial
        order = itertools.count()
        num_idle, now = num_slots, 0
        while True:
            while num_idle and (number := self._claim()) is not None:
                again = len(self.trials[number].intermediate_values) * (number in self.stateless)
                self.trace.num_epochs += again
                self.stateless.discard(number)
                heapq.heappush(events, (now + again + 1, next(order), number))
                num_idle -= 1
            if not events:
                break
            now, _, number = heapq.heappop(events)
            self._train(number, now * num_slots)
            if self._goes_on(number):
                heapq.heappush(events, (now + 1, next(order), number))
            else:
                num_idle += 1
        self.trace.cost = now * num_slots
        self.trace.curves = [len(trial.intermediate_values) for trial in self.trials]
        return self.trace

    @property
    def _all_started(self) -> bool:
        return len(self.trials) == self.num_trials

    def _claim(self) -> int | None:
        if self.method.promotes:
            number = to_promote(
                self._standings(),
                self.rungs,
                all_started=self._all_started,
                num_epochs=self.recording.num_epochs if self.method.goes_on else None,
            )
            if number is not None:
                self.states[number] = "running"
                return number
        return None if self._all_started else self._start()

    def _start(self) -> int:
        """Start a trial with the nearest unused configuration to what is proposed."""
        trial_id = self.storage.create_new_trial(self.study._study_id)
        trial = self.storage._get_trial(trial_id)
        number, first = trial.number, self.method.first
        if number < len(first):
            chosen = self.recording.nearest(first[number], self.left)
        elif self.method.make_sampler is None:
            chosen = self.left[0]
        else:
            chosen = self.recording.nearest(self._propose(trial), self.left)
        self.left.remove(chosen)
        trial = self.storage._get_trial(trial_id)  # Optuna has put another one in its place
        config, space = self.recording.configs[chosen], self.recording.space
        distributions = {each.name: each.values.distribution() for each in space.dimensions}
        trial.params = dict(config.params)
        trial.distributions = {name: distributions[name] for name in config.params}
        self.trials.append(trial)
        self.states.append("running")
        self.trace.used.append(chosen)
        return number

    def _propose(self, trial: FrozenTrial) -> dict[str, Any]:
        assert self.method.make_sampler is not None
        self.study.sampler = self.method.make_sampler(self.repetition, trial.number)
        self.study._thread_local.cached_all_trials = None
        shown = [*map(self._as_told, self.trials), trial]
        with self.storage.showing(list(map(self.shared.shown, shown))):
            asked = optuna.Trial(self.study, trial._trial_id)
            return self.recording.space.suggest(asked, self.shared.sample)

    def _as_told(self, trial: FrozenTrial) -> FrozenTrial:
        """Return a trial as the sampler sees it: one that was paused as pruned where it is."""
        if not self.method.promotes or trial.state.is_finished():
            return trial
        last_rung = max((r for r in self.rungs if r in trial.intermediate_values), default=None)
        if last_rung is None:
            return trial
        values = {s: v for s, v in trial.intermediate_values.items() if s <= last_rung}
        seen = copy.copy(trial)
        seen.state, seen.values = TrialState.PRUNED, [max(values.values())]
        seen.intermediate_values = values
        return seen

    def _train(self, number: int, cost: float) -> None:
        trial, config = self.trials[number], self.recording.configs[self.trace.used[number]]
        epoch = len(trial.intermediate_values) + 1
        trial.intermediate_values[epoch] = score = config.curve[epoch - 1]
        self.trace.num_epochs += 1
        if not self.trace.improvements or score > self.trace.improvements[-1][1]:
            self.trace.improvements.append((cost, score))

    def _goes_on(self, number: int) -> bool:
        trial = self.trials[number]
        epoch = len(trial.intermediate_values)
        if epoch == self.recording.num_epochs:
            self._end(number, TrialState.COMPLETE)
            return False
        if self.method.make_pruner and self.study.pruner.prune(self.study, trial):
            self._end(number, TrialState.PRUNED)
            return False
        if epoch in self.rungs:  # who goes on is decided when a slot is free, as in a search
            self.states[number] = "paused"
            known = self._standings()
            paused = {each.number for each in known if each.state == "paused"}
            self.stateless |= paused - may_go_on(known, self.rungs, self.num_trials)
            return False
        return True

    def _end(self, number: int, state: TrialState) -> None:
        trial = self.trials[number]
        trial.values = [max(trial.intermediate_values.values())]
        trial.state = state
        self.states[number] = "finished" if state == TrialState.COMPLETE else "ended"

    def _standings(self) -> list[Standing]:
        return [
            Standing(number, tuple(trial.intermediate_values.values()), self.states[number])
            for number, trial in enumerate(self.trials)
        ]
