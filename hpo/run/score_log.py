"""Follows the scores of a run, and what its worker says of the settings that it uses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from hpo.objective import DEFAULT, Objective
from trainer import rundir
from trainer.bounded import finite, whole
from trainer.errors import ConfigError
from trainer.rundir import Evaluation

MAX_SETTINGS = 1000
MAX_SHOWN = 60  # characters of a value that a worker has written
RELATIVE_TOLERANCE = 1e-6  # of a number that became a float32


class ScoreLog:
    """Follows the test log of a run, and its metrics as far as they are needed.

    The test log says which epochs were evaluated, and the default objective. Another one is in the
    metrics, whose line of an epoch our worker writes before that of the test log. The settings
    stand in that of the first epoch, or before.

    Attributes:
        was_replaced: the run goes on from an earlier epoch than its log said, see `read_new`.
        problem: why the trial has failed: the worker uses other settings; empty if it has not.
        refusal: likewise, but no trial of the search can do better: there is no such score.
    """

    def __init__(
        self,
        run_dir: Path,
        num_epochs: int | None,
        objective: Objective = DEFAULT,
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        """Read from the beginning; `asked` is what the worker's settings are compared with."""
        self._test = rundir.TestLogReader(
            run_dir / rundir.TEST_LOG, num_epochs=num_epochs, is_score=objective.is_default
        )
        self._metrics = rundir.MetricsReader(run_dir / rundir.METRICS, num_epochs=num_epochs)
        self._max_epoch = rundir.MAX_EPOCHS if num_epochs is None else num_epochs
        self._objective = objective
        self._asked = asked or {}
        self._awaits_settings = bool(self._asked)
        self._scores: dict[int, float | str] = {}  # by epoch: of the metrics, or what is wrong
        self._pending: list[Evaluation] = []  # evaluations whose score is not known yet
        self.was_replaced = False
        self.problem = self.refusal = ""

    def read_new(self) -> list[Evaluation]:
        """Return the evaluations since the last call, with the score as their accuracy.

        A run that goes on from an earlier one replaces its logs, without the lines of the epoch
        that was cut off: then `was_replaced` is True, and everything is read again.
        """
        entries = self._test.read_new()
        self.was_replaced = self._test.was_replaced
        if self.was_replaced:
            self._pending.clear()
            self._awaits_settings = bool(self._asked)
        if not self._objective.is_default:
            self._pending += entries
        if self._awaits_settings or self._pending:
            self._read_metrics()
        if entries:  # an engine that has said nothing before its first epoch says nothing
            self._awaits_settings = False
        return entries if self._objective.is_default else self._scored()

    def end(self) -> None:
        """Take note that the worker has ended, so that nothing is awaited any more."""
        if self._pending:
            self._refuse(self._pending[0].epoch)

    def _scored(self) -> list[Evaluation]:
        found: list[Evaluation] = []
        while self._pending:
            entry = self._pending[0]
            score = self._scores.get(entry.epoch)
            if isinstance(score, str):
                self.refusal = self.refusal or score
            elif score is None:
                if len(self._pending) > 1:  # its line is never written after the next epoch's
                    self._refuse(entry.epoch)
                break
            else:
                found.append(Evaluation(entry.epoch, score, entry.loss))
            self._pending.pop(0)
        return found

    def _refuse(self, epoch: int) -> None:
        self.refusal = self.refusal or (
            f"--objective {self._objective}: the worker has written nothing of epoch {epoch} to "
            f"{rundir.METRICS}, and {rundir.TEST_LOG} has the accuracy only (dice_dataset)"
        )

    def _read_metrics(self) -> None:
        entries = self._metrics.read_new()
        if self._metrics.was_replaced:
            self._scores.clear()
        for entry in entries:
            if rundir.USED in entry:
                self.problem = self.problem or other_setting(self._asked, entry[rundir.USED])
                self._awaits_settings = False
            if (epoch := whole(entry.get("epoch"), 0, self._max_epoch)) is not None:
                if self._objective.is_default:
                    continue
                try:
                    self._scores[epoch] = self._objective.read(entry)
                except ConfigError as error:
                    self._scores[epoch] = str(error)


def other_setting(asked: Mapping[str, Any], used: object) -> str:
    """Return one line on the first setting that a worker uses otherwise; empty if none.

    Args:
        asked: values by dotted path.
        used: what the worker has written, which may be anything; what it does not name is right.
    """
    if not isinstance(used, Mapping):
        return ""
    for key, value in islice(used.items(), MAX_SETTINGS):
        if key in asked and value is not None and not _is_same(asked[key], value):
            wanted = json.dumps(asked[key])
            return f"{key}: {wanted} was asked for, and the worker used {_shown(value)}"
    return ""


def _is_same(asked: Any, used: Any) -> bool:
    if isinstance(asked, bool) or isinstance(used, bool):
        return asked is used
    if isinstance(asked, int | float):
        number = finite(used)
        return number is not None and math.isclose(asked, number, rel_tol=RELATIVE_TOLERANCE)
    if isinstance(asked, str):  # a list: computed of it, as weights of classes are
        is_same_text = isinstance(used, str) and asked.casefold() == used.casefold()
        return is_same_text or isinstance(used, list)
    if isinstance(asked, list) and isinstance(used, list):
        return len(asked) == len(used) and all(map(_is_same, asked, used))
    return bool(asked == used)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
