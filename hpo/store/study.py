"""Opens the study's database and the study in it."""

from __future__ import annotations

import shlex
import socket
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import UsageError
from hpo.keys import (
    DATABASE_ID,
    IDENTITY,
    PAUSED,
    SPENT,
    SQLITE_HOST,
    STUDY_ID,
    TITLE,
    TOKEN,
)
from hpo.objective import DEFAULT, OBJECTIVE, Objective, objective_in
from hpo.records import end_of
from hpo.scoring_rules import EARLIER, SCORING_KEY
from hpo.store.agreement import agree, peek, start_over
from hpo.store.database import retry_first_start
from hpo.store.directions import direction_of
from hpo.store.sampling import SnapshotStorage
from trainer.bounded import finite
from trainer.direction import UNSCORED, Direction

_ABSENT = {OBJECTIVE: DEFAULT.key}  # what it means that an identity lacks a name
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)  # towards the total

optuna.logging.set_verbosity(optuna.logging.WARNING)  # our own progress says what happens
# TPE's `group` is experimental; Optuna is pinned, so nothing changes behind our back.
warnings.filterwarnings("ignore", category=ExperimentalWarning)


@dataclass(frozen=True, kw_only=True)
class WantedStudy:
    """The study that a search is: its name, how it is shown, and what drivers must agree on."""

    name: str
    title: str
    identity: Mapping[str, str]
    objective: Objective = DEFAULT


def open_study(wanted: WantedStudy, rdb: RDBStorage, *, may_move: bool = False) -> optuna.Study:
    """Create the study, or open it if it searches the same thing.

    Args:
        may_move: a SQLite study that another host has used is this host's from now on.

    Raises:
        UsageError: a study of that name with another space, data or objective; it says what
            differs and offers a name that is free. Or SQLite, from a second host.
    """
    storage = SnapshotStorage(rdb)
    study = retry_first_start(
        lambda: optuna.create_study(
            study_name=wanted.name,
            storage=storage,
            direction=wanted.objective.direction.value,
            load_if_exists=True,
        )
    )
    names = optuna.get_all_study_names(storage)
    stored = direction_of(study)
    if stored != wanted.objective.direction and IDENTITY not in study.user_attrs:
        raise _other_direction(wanted, stored, names)  # another driver makes it at this moment
    identity = dict(wanted.identity)
    attributes = {
        TITLE: wanted.title,
        STUDY_ID: uuid.uuid4().hex,
        DATABASE_ID: _database_id(storage),
        IDENTITY: identity,
    }
    is_sqlite = rdb.engine.name == "sqlite"
    if is_sqlite:
        attributes[SQLITE_HOST] = socket.gethostname()
    agreed = agree(rdb, study._study_id, attributes)
    refuse_other_study(
        wanted,
        agreed,
        names,
        may_move=may_move,
        may_start_over=lambda: start_over(rdb, study._study_id, identity),
    )
    assert agreed is not None  # else refused
    if stored != wanted.objective.direction:  # it has been started over
        study = optuna.load_study(study_name=wanted.name, storage=SnapshotStorage(rdb))
    if is_sqlite and agreed[SQLITE_HOST] != socket.gethostname():
        study.set_user_attr(SQLITE_HOST, socket.gethostname())
    if study.metric_names != [wanted.objective.name]:  # of an earlier release
        with warnings.catch_warnings():  # a caller of ours in Python may have filters of its own
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([wanted.objective.name])
    return study


def check_study(wanted: WantedStudy, url: str, *, may_move: bool = False) -> None:
    """Refuse what `open_study` would refuse; nothing is made and nothing changed.

    Raises:
        UsageError: as `open_study`.
        StorageError: the database does not answer.
    """
    known = peek(url, wanted.name)
    if known is not None:
        refuse_other_study(
            wanted,
            known.attributes,
            known.names,
            may_move=may_move,
            may_start_over=lambda: known.may_start_over,
        )


def refuse_other_study(
    wanted: WantedStudy,
    agreed: Mapping[str, Any] | None,
    taken: Sequence[str],
    *,
    may_move: bool,
    may_start_over: Callable[[], bool],
) -> None:
    """Refuse a study that is not the one that is wanted.

    Args:
        wanted: the study that this search is.
        agreed: the study's attributes, None of one that is not ours.
        taken: the names of all studies.
        may_move: whether a SQLite study of another host may be taken.
        may_start_over: says whether nothing came of what the study was.

    Raises:
        UsageError: it says what differs and offers a name that is free.
    """
    free = f"--study-name {shlex.quote(_free_name(wanted.name, taken))}"
    if agreed is None:
        raise UsageError(f"study {wanted.name!r} was not made by rml-optimize; use {free}")
    here, identity = socket.gethostname(), wanted.identity
    if agreed.get(SQLITE_HOST, here) != here and not may_move:
        raise UsageError(
            f"study {wanted.name!r} is in a SQLite file that host {agreed[SQLITE_HOST]!r} uses, "
            f"and this is {here!r}; SQLite loses data when hosts share a "
            "file: give all of them --storage postgresql+psycopg://… or mysql+pymysql://…, "
            "or add --move-here if nothing runs there any more"
        )
    stored = agreed.get(IDENTITY, identity)
    # Where nothing came of another search, nothing is mixed.
    if stored == identity or may_start_over():
        return
    if (direction := objective_in(stored).direction) != wanted.objective.direction:
        raise _other_direction(wanted, direction, taken)
    rules = stored.get(SCORING_KEY, EARLIER)
    if rules != identity[SCORING_KEY]:
        raise UsageError(
            f"study {wanted.name!r} was scored by other rules (version {rules}, and this "
            f"program's are version {identity[SCORING_KEY]}), so its scores and new ones cannot "
            f"be compared; start a new study with {free}, or go on with the release that began it"
        )
    keys = sorted(k for k in {*stored, *identity} if stored.get(k) != identity.get(k))
    lines = "\n".join(
        f"  {key}: {stored.get(key, _ABSENT.get(key, '(absent)'))}  ->  "
        f"{identity.get(key, _ABSENT.get(key, '(absent)'))}"
        for key in keys
    )
    raise UsageError(
        f"study {wanted.name!r} exists and searches something else:\n{lines}\n"
        f"use {free} for a new study, or the same options as before to go on with it"
    )


def _other_direction(wanted: WantedStudy, stored: Direction, taken: Sequence[str]) -> UsageError:
    """Return the error of a study whose scores are compared the other way: that never changes."""
    objective = wanted.objective
    return UsageError(
        f"study {wanted.name!r} is to {stored} its score, and this search is to "
        f"{objective.direction} {objective}; use --study-name "
        f"{shlex.quote(_free_name(wanted.name, taken))}, or the --objective as before"
    )


def _database_id(storage: BaseStorage) -> str:
    """Return the id that the studies of this database share."""
    known = (study.user_attrs.get(DATABASE_ID) for study in storage.get_all_studies())
    return next(filter(None, known), None) or uuid.uuid4().hex


def _free_name(name: str, taken: Sequence[str]) -> str:
    number = 2
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"


def is_foreign(trial: FrozenTrial) -> bool:
    """Say whether a plain Optuna script has run a trial, so that nobody knows of what model."""
    return TOKEN not in trial.user_attrs and not is_paused(trial)


def is_paused(trial: FrozenTrial) -> bool:
    """Say whether a trial waits at a rung, to be promoted."""
    return trial.state == TrialState.WAITING and PAUSED in trial.user_attrs


def recorded_state(trial: FrozenTrial) -> str:
    """Return the name of a trial's state in files: Optuna's, but for one that is paused."""
    return "PAUSED" if is_paused(trial) else trial.state.name


def score(trial: FrozenTrial, direction: Direction) -> float | None:
    """Return a trial's score, whatever its state: the best one of its epochs.

    It is also the value that the study has of it; Optuna's own `tell` keeps a pruned trial's last.
    A foreign trial has none: it has no model to be the best, and what it tells may be anything.
    """
    return None if is_foreign(trial) else direction.best_score(trial.intermediate_values)


def seconds_of(trial: FrozenTrial) -> float | None:
    """Return how long a trial was trained, over all attempts that were not cut off."""
    spent = _total(trial.user_attrs.get(SPENT))
    if spent is not None:  # else there was one attempt, and Optuna knows
        end = _total(end_of(trial.user_attrs).get("seconds"))
        return spent if end is None else end
    return trial.duration.total_seconds() if trial.duration else None


def _total(seconds: object) -> float | None:
    """Return the seconds of all attempts; None of what is no record of ours."""
    return finite(seconds.get("total"), 0) if isinstance(seconds, dict) else None


def last_score(trial: FrozenTrial) -> float | None:
    """Return the score of a trial's last epoch."""
    values = trial.intermediate_values
    return values[max(values)] if values else None


def best_epoch(trial: FrozenTrial, direction: Direction) -> int | None:
    """Return the epoch of the score, the first of equals."""
    return direction.best_epoch(trial.intermediate_values)


def trial_rank(trial: FrozenTrial, direction: Direction) -> tuple[float, int]:
    """Return a trial's rank (`Direction.rank`): the best one's is the greatest."""
    return direction.rank(score(trial, direction), trial.number)


def best_first(trials: Iterable[FrozenTrial], direction: Direction) -> list[FrozenTrial]:
    """Return those of some trials that have a score, the best first."""
    ranked = sorted(trials, key=lambda trial: trial_rank(trial, direction), reverse=True)
    return [trial for trial in ranked if trial_rank(trial, direction) > UNSCORED]


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count towards the total: complete or pruned, by number."""
    return study.get_trials(deepcopy=False, states=COUNTED)


def best_of_optuna(study: optuna.Study) -> FrozenTrial | None:
    """Return what Optuna's `best_trial` is: of the complete trials only, None without one.

    Foreign trials are among them.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    direction = direction_of(study)
    return max(complete, key=lambda trial: direction.rank(trial.value, trial.number), default=None)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the finished trial with the best score, of equals the earliest."""
    return best_of(finished_trials(study), direction_of(study))


def best_of(trials: Iterable[FrozenTrial], direction: Direction) -> FrozenTrial | None:
    """Return the best trial of some, None where none has a score."""
    best = max(trials, key=lambda trial: trial_rank(trial, direction), default=None)
    if best is None or trial_rank(best, direction) == UNSCORED:
        return None
    return best
