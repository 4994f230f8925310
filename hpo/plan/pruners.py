"""Pruners by the names that `--pruner` takes."""

from __future__ import annotations

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner

from hpo.plan.spec import StudySpec


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
