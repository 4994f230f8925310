"""Keeps all that a killed run needs to go on to the same final numbers."""

from __future__ import annotations

import copy
import dataclasses
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from trainer.bounded import BoundError
from trainer.config import NeuralNetwork
from trainer.data.intensity import IntensityRange
from trainer.errors import WeightsError
from trainer.networks.network_module import NetworkModule
from trainer.networks.tensors import load_tensors
from trainer.optimizers import load_state
from trainer.optimizers.schedule import LearningRate
from trainer.output.checkpoints import CheckpointKeeper
from trainer.output.state import State, check_buffers, check_size, checked_state
from trainer.rundir import RESUME

RESUME_INTERVAL_S = 30.0
MAX_SHARE = 0.03

# What may differ between the run that was killed and the one that goes on.
_FREE = {
    "num_epochs": True,
    "checkpoints": True,
    "device": True,
    "cuda_graph": True,
    "debug": True,
    "log_interval_s": True,
    "outfile": True,
    "written_at": True,
}

# The defaults of earlier releases, whose configs do not state them: section -> key -> value.
EARLIER_RULES: dict[str, dict[str, Any]] = {
    "data": {"mask_resize": "opencv", "rotate_direction": "counterclockwise"},
    "metrics": {"include_background": False},
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """What changes as a network is trained."""

    network: NetworkModule
    optimizer: torch.optim.Optimizer
    learning_rate: LearningRate
    keeper: CheckpointKeeper
    intensity_range: IntensityRange | None = None


class Pace:
    """Says after each epoch whether its state is written.

    A run that is killed loses RESUME_INTERVAL_S at most, or one epoch if that takes longer: so a
    state is written early rather than late. A large one, which takes a core for long, is written
    less often, for no more than MAX_SHARE of the time.
    """

    def __init__(self) -> None:
        self._written = self._epoch_ended = time.monotonic()

    def is_due(self, cost_s: float) -> bool:
        """Say it; what is due counts as written.

        Args:
            cost_s: seconds of a core that the last one has taken. Waiting for a slow disk takes
                none, and training goes on meanwhile.
        """
        now = time.monotonic()
        epoch_s, self._epoch_ended = now - self._epoch_ended, now
        since_s = now - self._written
        is_due = since_s + epoch_s >= RESUME_INTERVAL_S and since_s >= cost_s / MAX_SHARE
        if is_due:
            self._written = now
        return is_due


@dataclass(frozen=True)
class StateKeeper:
    """Puts together what `resume.pt` holds.

    Attributes:
        started: `time.monotonic()` at the run's start.
    """

    training: Training
    config: NeuralNetwork
    started: float

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return _comparable(self.config)

    def content(self, epoch: int) -> dict[str, Any] | None:
        """Return the fields of a `State`, with the tensors that training goes on changing.

        None if the config wants no state.
        """
        if not self.config.checkpoints.resume:
            return None
        training = self.training
        on_cuda = next(training.network.parameters()).is_cuda
        scaled_by = training.intensity_range
        state = State(
            epoch=epoch,
            time_s=time.monotonic() - self.started,
            config=self._settings,
            network=dict(training.network.state_dict()),
            optimizer=training.optimizer.state_dict(),
            scheduler=training.learning_rate.state_dict(),
            keeper=training.keeper.state,
            rng=torch.get_rng_state(),  # of dropout
            cuda_rng=torch.cuda.get_rng_state() if on_cuda else None,
            intensity_range=scaled_by.as_json() if scaled_by else None,
        )
        return {each.name: getattr(state, each.name) for each in dataclasses.fields(State)}


def read_state(config: NeuralNetwork) -> State | None:
    """Return the state to go on from: None for a run that begins.

    Raises:
        WeightsError: the file is broken, or was written by a run with another config.
    """
    path = state_path(config)
    if path is None or not path.exists():
        return None
    try:
        state = checked_state(load_tensors(path))
    except Exception as error:  # noqa: BLE001  (torch raises whatever the bytes lead it to)
        reason = f" ({error})" if isinstance(error, BoundError) else ""
        raise WeightsError(f"{path}: cannot be read{reason}; remove it to begin anew") from None
    now, before = _comparable(config), _with_defaults(state.config, config)
    differing = sorted(key for key in now if now[key] != before.get(key))
    if differing:
        raise WeightsError(
            f"{path} is of a run with other settings ({', '.join(differing)}); give this one "
            "another checkpoints.save, or remove the file to begin anew"
        )
    return state


def stored_rules(config: NeuralNetwork) -> dict[str, Any]:
    """Return by which rules the run scores that this one goes on with: dotted key -> value.

    Nothing where there is no such run; of a broken state `read_state` says what is wrong.
    """
    path = state_path(config) if config.is_training else None
    try:
        if path is None or not path.exists():
            return {}
        stored = checked_state(load_tensors(path)).config
        return {
            f"{section}.{key}": value
            for section, values in _with_defaults(stored, config).items()
            if section in EARLIER_RULES
            for key, value in values.items()
            if key in EARLIER_RULES[section]
        }
    except Exception:  # noqa: BLE001  (torch raises whatever the bytes lead it to)
        return {}


def restore(training: Training, state: State) -> None:
    """Put training back to where it was.

    Raises:
        WeightsError: the state does not fit what it is put into.
    """
    own = training.network.state_dict()
    try:
        for key, value in state.network.items():
            if key in own and (value.shape, value.dtype) != (own[key].shape, own[key].dtype):
                raise ValueError(f"{key} is {value.dtype} {tuple(value.shape)}")
        training.network.load_state_dict(state.network)
        check_size(state.optimizer, own)
        # Copied: the file is mapped, and goes when the next state is written.
        load_state(training.optimizer, copy.deepcopy(state.optimizer))
        check_buffers(training.optimizer)
        training.learning_rate.load_state_dict(state.scheduler)
        training.keeper.state = state.keeper
        training.keeper.replaced = [training.keeper.here(path) for path in state.replaced]
        torch.set_rng_state(state.rng)
        if state.cuda_rng is not None and next(training.network.parameters()).is_cuda:
            torch.cuda.set_rng_state(state.cuda_rng)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise WeightsError(
            f"{RESUME}: its state does not fit this run ({reason}); remove it to begin anew"
        ) from None


def state_path(config: NeuralNetwork) -> Path | None:
    """Return where the state is kept; None if the config wants none."""
    if not config.checkpoints.resume:
        return None
    assert config.checkpoints.save is not None  # checked with the config
    return Path(config.checkpoints.save) / RESUME


def _with_defaults(stored: dict[str, Any], config: NeuralNetwork) -> dict[str, Any]:
    """Return a stored config with the keys that its engine did not know, as it meant them."""
    completed = dict(stored)
    for name in type(config).model_fields:
        section = getattr(config, name)
        if not isinstance(section, BaseModel) or name in _FREE:
            continue
        fields = type(section).model_fields.items()
        defaults = {key: field.get_default() for key, field in fields if not field.is_required()}
        defaults |= EARLIER_RULES.get(name, {})
        if name == "data" and config.data.inputs != "images":  # arrays are resized as ever
            defaults["mask_resize"] = None
        given = stored.get(name, {})
        if isinstance(given, dict):
            completed[name] = {**to_jsonable_python(defaults), **given}
    return completed


def _comparable(config: NeuralNetwork) -> dict[str, Any]:
    dumped: dict[str, Any] = config.model_dump(mode="json", exclude=_FREE)
    return dumped
