"""Opens the study's database and the study in it."""

from __future__ import annotations

import hashlib
import shlex
import socket
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import UsageError
from hpo.plan.spec import StudySpec
from hpo.scoring_rules import EARLIER, SCORING_KEY
from hpo.store.agreement import IDENTITY, agree, peek, start_over
from hpo.store.database import retry_first_start
from hpo.store.sampling import SnapshotStorage

TITLE = "rml:title"
DATABASE_ID = "rml:database"
SQLITE_HOST = "rml:sqlite_host"
STUDY_ID = "rml:id"  # tells a study from one of the same name in a database that was deleted

optuna.logging.set_verbosity(optuna.logging.WARNING)  # our own progress says what happens
# TPE's `group` is experimental; Optuna is pinned, so nothing changes behind our back.
warnings.filterwarnings("ignore", category=ExperimentalWarning)


def open_study(spec: StudySpec, rdb: RDBStorage, *, may_move: bool = False) -> optuna.Study:
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
            study_name=spec.name, storage=storage, direction="maximize", load_if_exists=True
        )
    )
    identity = spec.identity()
    wanted = {
        TITLE: spec.title,
        STUDY_ID: uuid.uuid4().hex,
        DATABASE_ID: _database_id(storage),
        IDENTITY: identity,
    }
    is_sqlite = rdb.engine.name == "sqlite"
    if is_sqlite:
        wanted[SQLITE_HOST] = socket.gethostname()
    agreed = agree(rdb, study._study_id, wanted)
    refuse_other_study(
        spec,
        agreed,
        optuna.get_all_study_names(storage),
        may_move=may_move,
        may_start_over=lambda: start_over(rdb, study._study_id, identity),
    )
    assert agreed is not None  # else refused
    if is_sqlite and agreed[SQLITE_HOST] != socket.gethostname():
        study.set_user_attr(SQLITE_HOST, socket.gethostname())
    return study


def check_study(spec: StudySpec, url: str, *, may_move: bool = False) -> None:
    """Refuse what `open_study` would refuse; nothing is made and nothing changed.

    Raises:
        UsageError: as `open_study`.
        StorageError: the database does not answer.
    """
    known = peek(url, spec.name)
    if known is not None:
        refuse_other_study(
            spec,
            known.attributes,
            known.names,
            may_move=may_move,
            may_start_over=lambda: known.may_start_over,
        )


def refuse_other_study(
    spec: StudySpec,
    agreed: Mapping[str, Any] | None,
    taken: Sequence[str],
    *,
    may_move: bool,
    may_start_over: Callable[[], bool],
) -> None:
    """Refuse a study that is not the one that is wanted.

    Args:
        spec: what is wanted.
        agreed: the study's attributes, None of one that is not ours.
        taken: the names of all studies.
        may_move: whether a SQLite study of another host may be taken.
        may_start_over: says whether nothing came of what the study was.

    Raises:
        UsageError: it says what differs and offers a name that is free.
    """
    free = f"--study-name {shlex.quote(_free_name(spec.name, taken))}"
    if agreed is None:
        raise UsageError(f"study {spec.name!r} was not made by rml-optimize; use {free}")
    here, identity = socket.gethostname(), spec.identity()
    if agreed.get(SQLITE_HOST, here) != here and not may_move:
        raise UsageError(
            f"study {spec.name!r} is in a SQLite file that host {agreed[SQLITE_HOST]!r} uses, "
            f"and this is {here!r}; SQLite loses data when hosts share a "
            "file: give all of them --storage postgresql+psycopg://… or mysql+pymysql://…, "
            "or add --move-here if nothing runs there any more"
        )
    stored = agreed.get(IDENTITY, identity)
    # Where nothing came of another search, nothing is mixed.
    if stored == identity or may_start_over():
        return
    rules = stored.get(SCORING_KEY, EARLIER)
    if rules != identity[SCORING_KEY]:
        raise UsageError(
            f"study {spec.name!r} was scored by other rules (version {rules}, and this program's "
            f"are version {identity[SCORING_KEY]}), so its scores and new ones cannot be "
            f"compared; start a new study with {free}, or go on with the release that began it"
        )
    keys = sorted(k for k in {*stored, *identity} if stored.get(k) != identity.get(k))
    lines = "\n".join(
        f"  {key}: {stored.get(key, '(absent)')}  ->  {identity.get(key, '(absent)')}"
        for key in keys
    )
    raise UsageError(
        f"study {spec.name!r} exists and searches something else:\n{lines}\n"
        f"use {free} for a new study, or the same options as before to go on with it"
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


def make_pruner(spec: StudySpec) -> BasePruner:
    """Return the pruner; epochs are its steps, counted from 1."""
    first_pruned = spec.num_warmup_epochs + 1
    if spec.pruner == "median":
        # Optuna's 5 would be most of a search of 8 trials.
        num_whole = max(3, min(5, spec.num_trials // 4))
        return MedianPruner(num_whole, n_warmup_steps=first_pruned, n_min_trials=3)
    if spec.pruner == "hyperband":
        return HyperbandPruner(
            min_resource=min(first_pruned, spec.num_epochs), max_resource=spec.num_epochs
        )
    return NopPruner()


def make_sampler(spec: StudySpec, trial_number: int) -> BaseSampler:
    """Return a sampler seeded by study seed and trial number.

    A sampler of its own for each trial makes a search with one slot repeatable, resumed or not.
    """
    seed = derived_seed(spec.seed, trial_number, "sampler")
    if spec.sampler == "random":
        return RandomSampler(seed=seed)
    # A short search would end before TPE's usual ten random trials have taught it anything.
    num_random = 5 if spec.num_trials < 25 else 10
    # group: a learning rate per optimizer makes the space conditional
    return TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=num_random)


def derived_seed(seed: int, trial_number: int, purpose: str) -> int:
    """Return a 31-bit seed for one purpose in one trial."""
    digest = hashlib.sha256(f"{seed}/{trial_number}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def score(trial: FrozenTrial) -> float | None:
    """Return a trial's score, whatever its state: the best accuracy over its epochs.

    It is also the value that the study has of it; Optuna's own `tell` keeps a pruned trial's last.
    """
    values = trial.intermediate_values.values()
    return max(values) if values else None


def last_value(trial: FrozenTrial) -> float | None:
    """Return the accuracy of a trial's last epoch."""
    values = trial.intermediate_values
    return values[max(values)] if values else None


def best_epoch(trial: FrozenTrial) -> int | None:
    """Return the epoch of the score, the first of equals."""
    values = trial.intermediate_values
    return max(values, key=lambda epoch: (values[epoch], -epoch)) if values else None


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count towards the total: complete or pruned, by number."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def best_of_optuna(study: optuna.Study) -> FrozenTrial | None:
    """Return what Optuna's `best_trial` is: of the complete trials only, None without one."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the finished trial with the best score, of equals the earliest."""
    scored = [trial for trial in finished_trials(study) if score(trial) is not None]
    return max(scored, key=lambda trial: (score(trial), -trial.number), default=None)
