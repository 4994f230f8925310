"""Samplers by the names that `--sampler` takes."""

from __future__ import annotations

import hashlib

from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from hpo.plan.spec import StudySpec


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
