"""What `resume.pt` holds, checked field by field: the file may come from anybody."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import torch

from trainer.bounded import BoundError, finite, whole
from trainer.networks.tensors import tensor_problem
from trainer.rundir import checkpoint_file

MAX_COPIES = 256  # of the parameters that an optimizer keeps: L-BFGS has two hundred
MAX_STEPS = 1e12
MAX_ITEMS = 1_000_000  # dictionaries, lists and values of its state
_CHECKPOINT = re.compile(re.escape(checkpoint_file("*")).replace(r"\*", r"\d+"))
# Of optimizers: as large as their parameter. Others are numbers, or a kind of their own.
_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg",
            "sum", "acc_delta")  # fmt: skip


@dataclass(frozen=True)
class State:
    """What `resume.pt` holds: training as it was after `epoch`.

    Attributes:
        replaced: checkpoints that were to be removed once it was written.
    """

    epoch: int
    time_s: float
    config: dict[str, Any]
    network: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None
    keeper: tuple[float | None, str | None]
    rng: torch.Tensor
    cuda_rng: torch.Tensor | None
    intensity_range: dict[str, Any] | None = None
    replaced: list[str] = field(default_factory=list)


def checked_state(content: Any) -> State:
    """Return a state whose every field is what it should be.

    Raises:
        BoundError: names the first that is not.
    """
    known = {each.name for each in dataclasses.fields(State)}
    if not isinstance(content, dict) or not {*content} <= known:
        raise BoundError("it is no state of a run")
    try:
        state = State(**content)
    except TypeError as error:
        raise BoundError(f"it is no state of a run: {error}") from None
    best, kept = state.keeper if _is_pair(state.keeper) else (math.nan, 0)
    problems = {
        "epoch": whole(state.epoch, 0, 2**31) is None,
        "time_s": finite(state.time_s, 0) is None,
        "config": not _is_config(state.config),
        "network": not _holds_tensors(state.network),
        "optimizer": not _is_optimizer(state.optimizer),
        "scheduler": not isinstance(state.scheduler, dict | None),
        "keeper": (best is not None and finite(best) is None)
        or not (kept is None or _is_checkpoint(kept)),
        "rng": not _is_bytes(state.rng),
        "cuda_rng": state.cuda_rng is not None and not _is_bytes(state.cuda_rng),
        "intensity_range": not isinstance(state.intensity_range, dict | None),
        "replaced": not isinstance(state.replaced, list)
        or not all(map(_is_checkpoint, state.replaced)),
    }
    for name, is_wrong in problems.items():
        if is_wrong:
            raise BoundError(f"its {name} is not what a run writes")
    return state


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


def _is_checkpoint(name: object) -> bool:
    """Say whether a name is one of ours: whatever a state names may be removed."""
    return isinstance(name, str) and _CHECKPOINT.fullmatch(PurePath(name).name) is not None


def _is_config(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _holds_tensors(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(key, str) and isinstance(tensor, torch.Tensor) and not tensor_problem(tensor)
        for key, tensor in value.items()
    )


def _is_optimizer(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("state"), dict)
        and isinstance(value.get("param_groups"), list)
        and all(isinstance(group, dict) for group in value["param_groups"])
    )


def _is_bytes(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.uint8 and value.ndim == 1


def check_buffers(optimizer: torch.optim.Optimizer) -> None:
    """Refuse moments of another shape than their parameter's: a step would fail, or spread them.

    Raises:
        ValueError: names one.
    """
    for parameter, buffers in optimizer.state.items():
        if not isinstance(parameter, torch.Tensor) or not isinstance(buffers, dict):
            raise ValueError("the optimizer's state is of no parameter")
        for name, value in buffers.items():
            if name == "step" and finite(float(value), 0, MAX_STEPS) is None:
                raise ValueError(f"the optimizer has done {float(value):g} steps")
            is_moment = isinstance(value, torch.Tensor) and name in _MOMENTS
            if is_moment and value.shape not in (parameter.shape, ()):
                raise ValueError(f"{name} has the shape {tuple(value.shape)}")


def check_size(optimizer: dict[str, Any], own: dict[str, torch.Tensor]) -> None:
    """Refuse an optimizer's state that is much larger than that of any optimizer.

    Raises:
        ValueError: it is.
    """
    left = MAX_COPIES * sum(value.numel() for value in own.values()) + 2**20
    stack: list[Any] = [optimizer]
    for _ in range(MAX_ITEMS):
        if not stack:
            return
        item = stack.pop()
        if isinstance(item, torch.Tensor):
            left -= item.untyped_storage().nbytes() // 8
        elif isinstance(item, dict | list | tuple):
            stack += item.values() if isinstance(item, dict) else item
        if left < 0:
            break
    raise ValueError("its optimizer has too large a state")
