"""Has the worker measure what trials are compared by, and keep the best epoch by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpo.errors import UsageError
from hpo.objective import Objective
from trainer.config.messages import hint
from trainer.figures import AVERAGES, DICE_DATASET
from trainer.keypath import get_path, set_path
from trainer.plugins import METRICS_GROUP, plugin_names

if TYPE_CHECKING:
    from hpo.launchers import Launcher
    from hpo.plan.spec import StudySpec

PLUGINS, KEEP = "metrics.plugins", "checkpoints.keep"
BEST_BY, BEST_DIRECTION = "checkpoints.best_by", "checkpoints.best_direction"


def measure(objective: Objective, base: dict[str, Any]) -> None:
    """Have an installed metric of the user's measured that trials are compared by."""
    if objective.key in AVERAGES or objective.of_class is not None:
        return
    named = get_path(base, PLUGINS) or []
    if objective.key not in named and objective.key in plugin_names(METRICS_GROUP):
        set_path(base, PLUGINS, [*named, objective.key])


def keep_best(config: dict[str, Any], objective: Objective, launcher: Launcher) -> None:
    """Have a worker keep the checkpoint of the epoch that is the best by the objective.

    All of them where it knows the accuracy only, or the highest figure only.
    """
    if objective.is_default or get_path(config, KEEP) != "best":
        return
    needed = {BEST_BY: objective.key}
    if objective.direction.is_lower_better:
        needed[BEST_DIRECTION] = objective.direction.value
    if not launcher.capabilities().issuperset(needed):
        needed = {KEEP: "all"}
    for key, value in needed.items():
        set_path(config, key, value)


def refuse_unknown_objective(spec: StudySpec, launcher: Launcher) -> None:
    """Refuse an objective that our own worker does not measure; another one's may be anything.

    Raises:
        UsageError: it does not; the message has what there is.
    """
    key = spec.objective.key
    if spec.objective.is_default or "metrics" not in launcher.capabilities():
        return
    known = [*_averages(spec), *(get_path(spec.base, PLUGINS) or [])]
    known += [f"{DICE_DATASET}.{name}" for name in _classes(spec)]
    if key not in known:
        raise UsageError(
            f"--objective {key}: the worker measures no such figure; {hint(key, known)} (a metric "
            "of yours is a plug-in, see docs/plugins.md)"
        )


def _averages(spec: StudySpec) -> list[str]:
    """Return the averages that our worker measures: two of them of several channels only."""
    has_several = spec.facts.output_shape[-1] > 1
    return [name for name in AVERAGES if has_several or "background" not in name]


def _classes(spec: StudySpec) -> list[str]:
    """Return what our worker calls the classes that it scores."""
    num_channels, names = spec.facts.output_shape[-1], get_path(spec.base, "data.class_names")
    if num_channels == 1:
        return [names[1] if names and len(names) == 2 else "foreground"]
    return list(names or ("background", *(f"class_{c}" for c in range(1, num_channels))))
