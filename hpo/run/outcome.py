"""How a trial ends, and what the study is told of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from hpo.launchers import Handle
from hpo.launchers.log import shortened
from hpo.store.study import COUNTED
from trainer.errors import ConfigError, DivergedError, OutOfMemoryError, UserError
from trainer.keypath import get_path

BATCH_SIZE = "data.batch_size"
LOG_TAIL_LINES = 12

End = Literal[
    "complete",
    "pruned",
    "diverged",
    "out of memory",
    "out of time",
    "cut off",
    "failed",
    "refused",
    "unfit",
    "paused",
    "given back",
    "lost",
]

STATES: dict[End, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,
    "out of memory": TrialState.PRUNED,
    "out of time": TrialState.PRUNED,  # with a score; without one it has failed
    "cut off": TrialState.FAIL,  # by the study's time, before its first epoch: nobody's fault
    "failed": TrialState.FAIL,
    "refused": TrialState.FAIL,  # the worker said that config or data cannot work
    "unfit": TrialState.FAIL,  # somebody enqueued values that are not in the space
}

HOST_MEMORY = (
    "the kernel killed the worker for want of the machine's memory, not the GPU's; run fewer at a "
    "time (--jobs), or give each container more (--docker-memory)"
)
OVER = "the study's time (--hours) is over"
LOST = "another driver has taken the trial over"
_NUMBERS = re.compile(r"[-+.\w]*\d[-+.\w]*")  # of the trial, or values that it has


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended."""

    number: int
    end: End
    score: float | None = None
    epoch: int | None = None
    num_epochs: int = 0
    seconds: float = 0.0
    message: str = ""
    log_tail: str = ""
    cause: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    curve: Mapping[int, float] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether the trial is one of the N that were asked for."""
        return STATES.get(self.end) in COUNTED


@dataclass(frozen=True)
class AttemptResult:
    """What was seen of a worker.

    Attributes:
        curve: score by epoch.
        is_crash: another attempt may work.
        exit_code: of a crash.
        why: the message without the numbers of this trial, where it has any; see `cause`.
        may_be_state: a worker that went on from a state may work without it.
    """

    end: End
    curve: Mapping[int, float] = field(default_factory=dict)
    message: str = ""
    log_tail: str = ""
    is_crash: bool = False
    exit_code: int | None = None
    why: str = ""
    may_be_state: bool = False

    @property
    def cause(self) -> str:
        """What is the same in two failures that count as alike."""
        return self.why or self.message


def cut_off(curve: Mapping[int, float], num_epochs: int) -> AttemptResult:
    """Return the end of a trial that the study's time has ended, unless it is whole."""
    if num_epochs in curve:
        return AttemptResult("complete", curve)
    if curve:
        return AttemptResult("out of time", curve, OVER)
    return AttemptResult("cut off", message=f"{OVER}, and no epoch was evaluated")


def classify(
    code: int, curve: Mapping[int, float], handle: Handle, *, on_gpu: bool = False
) -> AttemptResult:
    """Decide from the exit code what a worker's end means (see `trainer.errors`).

    The machine's memory is not a GPU's: what a batch needs there says nothing of the batch.
    """
    tail = shortened(handle.log_tail(LOG_TAIL_LINES))
    if code == 0 and curve:
        return AttemptResult("complete", curve)
    if code == 0:
        return AttemptResult(
            "failed", curve, "the worker ended without a line in out_test.txt", tail
        )
    if code == UserError.exit_code:
        message = "the worker refused its config or data"
        return AttemptResult("refused", curve, message, tail, may_be_state=True)
    if code == DivergedError.exit_code:
        return AttemptResult("diverged", curve, "the loss became NaN or infinite")
    if handle.oom_killed and on_gpu:
        return AttemptResult("failed", curve, HOST_MEMORY, tail, is_crash=True)
    if code == OutOfMemoryError.exit_code or handle.oom_killed:
        return AttemptResult("out of memory", curve, "the batch does not fit the memory", tail)
    message = f"the worker ended with exit code {code}"
    return AttemptResult("failed", curve, message, tail, is_crash=True, exit_code=code)


def failed_by(error: ConfigError | OSError) -> AttemptResult:
    """Return the end of an attempt whose worker was not started, or not followed to its end."""
    if isinstance(error, ConfigError):  # these values don't go together; others may
        why = _NUMBERS.sub("#", str(error))
        return AttemptResult("failed", message=str(error), why=why)
    where = f"{error.filename}: " if error.filename else ""
    why = error.strerror or str(error)
    return AttemptResult("failed", message=where + why, is_crash=True, why=why)


def memory_advice(
    trials: Sequence[FrozenTrial], chosen: Mapping[str, Any], base: Mapping[str, Any]
) -> str:
    """Say what would fit, from the trials that did."""
    size = chosen.get(BATCH_SIZE, get_path(base, BATCH_SIZE))
    text = f"a batch of {size or 'the default size'} does not fit the memory"
    fitting = {
        trial.params[BATCH_SIZE]
        for trial in trials
        if BATCH_SIZE in trial.params and trial.intermediate_values and not trial.constraints
    }
    smaller = [value for value in fitting if size is not None and value < size]
    if smaller:
        return f"{text}; {max(smaller)} did in another trial"
    return f"{text}; try a smaller {BATCH_SIZE} or a smaller --resize"
