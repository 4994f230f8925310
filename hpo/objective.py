"""What trials are compared by: a figure of the worker's metrics, and which is the better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo.errors import UsageError
from hpo.keys import IDENTITY
from hpo.wording import SHORT_NAME
from trainer.direction import Direction
from trainer.errors import ConfigError
from trainer.figures import (
    DICE_DATASET,
    DICE_PER_IMAGE,
    LOWER_IS_BETTER,
    figure_of,
    is_share,
    of_class,
)
from trainer.plugins import METRICS_GROUP, direction_of, plugin_names, worst_of

OBJECTIVE = "objective"  # in a study's identity; absent where it is the default
DIRECTION = "direction"  # likewise; absent where the objective is maximized
MAX_CHARS = 100
_NAMES = {DICE_DATASET: "Dice (data set)", DICE_PER_IMAGE: "Dice (per image)"}
# What tables and JSON have beside the score, by its name; none is a figure of our metrics.
_TAKEN = (
    "trial", "number", "state", "epoch", "epochs", "seconds", "host", "params", "study", "seed",
    "attempt", "score", "objective", "is_foreign", "end", "message", "curve", "config", "data",
    "best_of_optuna", "code", "cpu", "dice_per_class", "durations", "foreign_value", "gpus",
    "image", "launcher", "log_tail", "requeued_from", "run_dir", "seeds", "selected", "silent_s",
    "started", "test", "uid", "user", "values",
)  # fmt: skip


@dataclass(frozen=True)
class Objective:
    """The figure that is the score of a trial.

    Attributes:
        key: `dice_dataset`, `dice_per_image`, `dice_dataset.CLASS`, or what else the worker's
            metrics have, such as the user's own metrics by their names.
        direction: which of two scores is the better one.
        worst: what it counts as after an epoch where it is undefined, None to refuse that.
    """

    key: str = DICE_DATASET
    direction: Direction = Direction.MAXIMIZE
    worst: float | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.key

    @property
    def is_default(self) -> bool:
        """Whether it is the accuracy of the contract's test log."""
        return self.key == DICE_DATASET

    @property
    def of_class(self) -> str | None:
        """The one class whose Dice it is, if it is one's."""
        return of_class(self.key)

    @property
    def name(self) -> str:
        """What Optuna's pages call it."""
        if self.of_class is not None:
            return f"Dice of {self.of_class} (data set)"
        return _NAMES.get(self.key, self.key)

    @property
    def short_name(self) -> str:
        """What is written before a score in a line on a trial."""
        return SHORT_NAME if self.is_default else self.key

    @property
    def identity(self) -> dict[str, str]:
        """Return what the drivers of a study agree on: nothing of the default."""
        found = {} if self.is_default else {OBJECTIVE: self.key}
        return found | ({DIRECTION: self.direction} if self.direction.is_lower_better else {})

    def read(self, entry: Mapping[str, Any]) -> float:
        """Return the score in a line of `metrics.jsonl`: `worst` where it is undefined.

        Raises:
            ConfigError: it is not there, which says what is, or no number.
        """
        return figure_of(entry, self.key, "--objective", self.worst)

    def read_or_none(self, entry: Mapping[str, Any]) -> float | None:
        """Return the score in a line of `metrics.jsonl`, None where it is undefined or absent."""
        try:
            return figure_of(entry, self.key, "--objective")
        except ConfigError:
            return None


DEFAULT = Objective()


def parse_objective(text: str) -> Objective:
    """Read the option `--objective`.

    A plug-in metric says itself whether it is minimized. Of another engine's figure nobody knows
    it but the user, who says `KEY:minimize`.

    Raises:
        UsageError: no name of a figure, or another direction than it has.
        ConfigError: a plug-in cannot be loaded.
    """
    key, _, asked = text.strip().partition(":")
    if key in LOWER_IS_BETTER and key not in plugin_names(METRICS_GROUP):
        raise UsageError(
            f"--objective {key}: trials are not compared by it; a metric of your own may be "
            "minimized (docs/plugins.md)"
        )
    if asked not in ("", *Direction):
        raise UsageError(
            f"--objective {text.strip()[:MAX_CHARS]!r}: expected KEY, KEY:maximize or KEY:minimize"
        )
    if not key or key.startswith(("-", ".")) or len(key) > MAX_CHARS or not key.isprintable():
        raise UsageError(
            f"--objective {key[:MAX_CHARS]!r}: expected {DICE_DATASET}, {DICE_PER_IMAGE}, "
            f"{DICE_DATASET}.CLASS or the name of a plug-in metric"
        )
    if key in _TAKEN:
        raise UsageError(f"--objective {key}: is no figure of an evaluation")
    return _directed(key, Direction(asked) if asked else None)


def _directed(key: str, asked: Direction | None) -> Objective:
    known, worst = None, None
    if is_share(key):
        known, worst = Direction.MAXIMIZE, 0.0
    elif key in plugin_names(METRICS_GROUP):
        known, worst = direction_of(key), worst_of(key)
    if known is not None and asked not in (None, known):
        remedy = "" if is_share(key) else f", unless its `direction` is {asked.value!r}"
        raise UsageError(f"--objective {key}:{asked}: {key} is to {known}{remedy}")
    return Objective(key, known or asked or Direction.MAXIMIZE, worst)


def objective_of(attributes: Mapping[str, Any]) -> Objective:
    """Return what the trials of a study with those attributes are compared by."""
    return objective_in(attributes.get(IDENTITY))


def objective_in(identity: object) -> Objective:
    """Return what the trials of a study of that identity are compared by."""
    found = identity.get(OBJECTIVE) if isinstance(identity, Mapping) else None
    if not isinstance(identity, Mapping) or not isinstance(found, str):
        return DEFAULT
    is_minimized = identity.get(DIRECTION) == Direction.MINIMIZE
    return Objective(found, Direction.MINIMIZE if is_minimized else Direction.MAXIMIZE)
