"""Reads out of a study what its report shows, in plain lists that become JSON."""

from __future__ import annotations

import datetime as dt
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from hpo.keys import TESTED
from hpo.records import end_of, run_of
from hpo.report.importance import importances
from hpo.store.directions import direction_of
from hpo.store.durations import span_s, study_start
from hpo.store.states import NAMES, state_name
from hpo.store.study import COUNTED, best_epoch, best_of, is_paused, score, seconds_of
from trainer.direction import Direction

MAX_DRAWN = 1000  # trials in a drawing
MAX_POINTS = 80  # of a curve
CURVE_DIGITS = 5  # of a score in it
NUM_TOP = 100  # the best trials are drawn in any case
_COUNTED_NAMES = {NAMES[state] for state in COUNTED}


@dataclass(frozen=True, kw_only=True)
class HostTime:
    """What one machine has done for the study."""

    host: str
    finished: int
    failed: int
    busy_s: float  # of its trials, one after the other
    gpu_s: float
    gpus: tuple[str, ...]
    cpu: str


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A reason why trials failed, or ended before their time, and which did."""

    reason: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """What is known of a study at one moment.

    Attributes:
        best: the best trial, None before the first is finished.
        test: the record of its score on the test images, empty where there is none.
        span_s: from the first trial's start to the last one's end.
        data: what the page's drawings and its table are made of.
    """

    best: FrozenTrial | None
    test: dict[str, Any]
    num_finished: int
    states: dict[str, int]
    started: dt.datetime | None
    span_s: float
    hosts: tuple[HostTime, ...]
    failures: tuple[Failure, ...]
    data: dict[str, Any]


def read_facts(study: optuna.Study) -> StudyFacts:
    """Read a study as it is now."""
    trials = study.get_trials(deepcopy=False)
    counted = [trial for trial in trials if trial.state in COUNTED]
    direction = direction_of(study)
    best = best_of(counted, direction)
    states: dict[str, int] = defaultdict(int)
    for trial in trials:
        states[state_name(trial)] += 1
    attributes = study.user_attrs
    test = attributes.get(TESTED.format(best.number)) if best is not None else None
    return StudyFacts(
        best=best,
        test=test if isinstance(test, dict) else {},
        num_finished=len(counted),
        states=dict(states),
        started=study_start(trials),
        span_s=span_s(trials),
        hosts=tuple(_hosts(trials)),
        failures=tuple(_failures(trials)),
        data=_drawn_data(trials, best, direction),
    )


def _hosts(trials: Iterable[FrozenTrial]) -> list[HostTime]:
    by_host: dict[str, list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        has_trained = trial.state.is_finished() or is_paused(trial)
        if has_trained and (host := _host(trial)):
            by_host[host].append(trial)
    found = []
    for host, group in sorted(by_host.items()):
        runs = [run_of(trial.user_attrs) for trial in group]
        gpus = [run.get("gpus") or [] for run in runs]
        seconds = [seconds_of(trial) or 0.0 for trial in group]
        names = {str(gpu.get("name") or gpu.get("uuid")) for each in gpus for gpu in each}
        found.append(
            HostTime(
                host=host,
                finished=sum(trial.state in COUNTED for trial in group),
                failed=sum(trial.state == TrialState.FAIL for trial in group),
                busy_s=sum(seconds),
                gpu_s=sum(s * len(each) for s, each in zip(seconds, gpus, strict=True)),
                gpus=tuple(sorted(names)),
                cpu=next((str(name) for run in runs if (name := run.get("cpu", {}).get("name"))),
                         ""),
            )
        )  # fmt: skip
    return found


def _host(trial: FrozenTrial) -> str:
    return str(end_of(trial.user_attrs).get("host") or run_of(trial.user_attrs).get("host") or "")


def _failures(trials: Iterable[FrozenTrial]) -> list[Failure]:
    """Return what went wrong, the most frequent first; pruned for memory or divergence too."""
    reasons: dict[str, list[int]] = defaultdict(list)
    for trial in trials:
        end = end_of(trial.user_attrs)
        if trial.state.name == "FAIL" or end.get("end") in ("out of memory", "diverged"):
            reason = f"{end.get('end', 'failed')}: {end.get('message', '')}".rstrip(": ")
            reasons[reason].append(trial.number)
    ordered = sorted(reasons.items(), key=lambda item: -len(item[1]))
    return [Failure(reason=reason, numbers=tuple(numbers)) for reason, numbers in ordered]


def _drawn_data(
    trials: Sequence[FrozenTrial], best: FrozenTrial | None, direction: Direction
) -> dict[str, Any]:
    scores = [score(trial, direction) for trial in trials]
    names, distributions = _parameters(trials)
    choices = {name: _choices(distributions[name]) for name in names}
    hosts = sorted({_host(trial) for trial in trials})
    state_names = sorted({state_name(trial) for trial in trials})
    pairs = zip(trials, scores, strict=True)
    scored = [trial for trial, value in pairs if trial.state in COUNTED and value is not None]
    varied = [name for name in names if _has_choice(distributions[name])]
    weights = importances(scored, varied, direction)
    rows = _chosen_rows(trials, scores, direction)
    return {
        "best": None if best is None else best.number,
        "lower_is_better": direction.is_lower_better,
        "params": [
            {
                "name": name,
                "log": bool(getattr(distributions[name], "log", False)),
                "choices": None if (known := choices[name]) is None else [*known],
                "varies": _has_choice(distributions[name]),
                "importance": weights.get(name),
                "trials": sum(name in trial.params for trial in scored),
            }
            for name in names
        ],
        "states": state_names,
        "counted": [i for i, name in enumerate(state_names) if name in _COUNTED_NAMES],
        "hosts": hosts,
        "number": [trial.number for trial in trials],
        "state": [state_names.index(state_name(trial)) for trial in trials],
        "score": [_short(value) for value in scores],
        "epoch": [best_epoch(trial, direction) for trial in trials],
        "epochs": [max(trial.intermediate_values, default=0) for trial in trials],
        "seconds": [_short(seconds_of(trial)) for trial in trials],
        "host": [hosts.index(_host(trial)) for trial in trials],
        "values": [[_value(trial, name, choices[name]) for name in names] for trial in trials],
        "drawn": rows,
        "curves": [_curve(trials[row], direction) for row in rows],
    }


def _parameters(trials: Iterable[FrozenTrial]) -> tuple[list[str], dict[str, BaseDistribution]]:
    """Return all parameters, those of one optimizer (`…[Adam]`) last."""
    distributions = {name: d for trial in trials for name, d in trial.distributions.items()}
    return sorted(distributions, key=lambda name: ("[" in name, name)), distributions


def _has_choice(distribution: BaseDistribution) -> bool:
    return not distribution.single()


def _choices(distribution: BaseDistribution) -> dict[str, int] | None:
    """Return the texts of a parameter's choices, numbers by size; None of one without.

    Values are numbers of these: JavaScript writes 1.0 and 1e-05 otherwise.
    """
    if not isinstance(distribution, CategoricalDistribution):
        return None
    found = list(distribution.choices)
    if all(isinstance(each, int | float) and not isinstance(each, bool) for each in found):
        found.sort()
    return {text: index for index, text in enumerate(dict.fromkeys(map(str, found)))}


def _value(trial: FrozenTrial, name: str, choices: dict[str, int] | None) -> Any:
    """Return a trial's value of a parameter, None without one."""
    if name not in trial.params:
        return None
    value = trial.params[name]
    return _plain(value) if choices is None else choices.get(str(value))


def _chosen_rows(
    trials: Sequence[FrozenTrial],
    scores: Sequence[float | None],
    direction: Direction,
    limit: int = MAX_DRAWN,
) -> list[int]:
    """Return which trials are drawn: all, or the best and evenly many of the others."""
    rows = [row for row, value in enumerate(scores) if value is not None]
    if len(rows) <= limit:
        return rows
    ranked = sorted(
        rows,
        key=lambda row: (
            trials[row].state in COUNTED,
            direction.rank(scores[row], trials[row].number),
        ),
        reverse=True,
    )
    top, rest = ranked[:NUM_TOP], sorted(ranked[NUM_TOP:])
    num_rest = limit - len(top)
    return sorted([*top, *(rest[i * len(rest) // num_rest] for i in range(num_rest))])


def _curve(trial: FrozenTrial, direction: Direction) -> list[list[float]]:
    """Return epochs and scores; of a long curve evenly many epochs, the best and the last."""
    values = {e: v for e, v in sorted(trial.intermediate_values.items()) if math.isfinite(v)}
    epochs = list(values)
    if len(epochs) > MAX_POINTS:
        step = len(epochs) / MAX_POINTS
        kept = {epochs[int(i * step)] for i in range(MAX_POINTS)} | {epochs[-1]}
        epochs = sorted(kept | {best_epoch(trial, direction) or epochs[0]})
    return [[float(e) for e in epochs], [float(f"{values[e]:.{CURVE_DIGITS}g}") for e in epochs]]


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: a number, or its text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None if value is None else str(value)
    return _short(value)


def _short(value: float | None) -> float | None:
    """Return a number with as many digits as anybody reads; None of one that JSON has not."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.8g}")
