"""What trials are compared by: a figure of the worker's metrics, the greater the better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpo.errors import UsageError
from hpo.keys import IDENTITY
from hpo.wording import SHORT_NAME
from trainer.errors import ConfigError
from trainer.figures import DICE_DATASET, DICE_PER_IMAGE, LOWER_IS_BETTER, figure_of, of_class

OBJECTIVE = "objective"  # in a study's identity; absent where it is the default
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
    """

    key: str = DICE_DATASET

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

    def read(self, entry: Mapping[str, Any]) -> float:
        """Return the score in a line of `metrics.jsonl`.

        Raises:
            ConfigError: it is not there, which says what is, or no number.
        """
        return figure_of(entry, self.key, "--objective")

    def read_or_none(self, entry: Mapping[str, Any]) -> float | None:
        """Return the score in a line of `metrics.jsonl`, None where it has none."""
        try:
            return self.read(entry)
        except ConfigError:
            return None


DEFAULT = Objective()


def parse_objective(text: str) -> Objective:
    """Read the option `--objective`.

    Raises:
        UsageError: no name of a figure, or one that is the better the lower.
    """
    key, _, direction = text.strip().partition(":")
    if direction not in ("", "maximize") or key.startswith("-") or key in LOWER_IS_BETTER:
        raise UsageError(
            f"--objective {text.strip()}: a score is the better the higher, and nothing is "
            "minimized; have a metric of your own return -x, or 1 - x (docs/plugins.md)"
        )
    if not key or len(key) > MAX_CHARS or not key.isprintable() or key.startswith("."):
        raise UsageError(
            f"--objective {key[:MAX_CHARS]!r}: expected {DICE_DATASET}, {DICE_PER_IMAGE}, "
            f"{DICE_DATASET}.CLASS or the name of a plug-in metric"
        )
    if key in _TAKEN:
        raise UsageError(f"--objective {key}: is no figure of an evaluation")
    return Objective(key)


def objective_of(attributes: Mapping[str, Any]) -> Objective:
    """Return what the trials of a study with those attributes are compared by."""
    return objective_in(attributes.get(IDENTITY))


def objective_in(identity: object) -> Objective:
    """Return what the trials of a study of that identity are compared by."""
    found = identity.get(OBJECTIVE) if isinstance(identity, Mapping) else None
    return Objective(found) if isinstance(found, str) else DEFAULT
