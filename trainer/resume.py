"""Keeps, after each epoch, all that a killed run needs to go on to the same final numbers."""

from __future__ import annotations

import dataclasses
import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoints import CheckpointKeeper, write_checkpoint
from trainer.config import NeuralNetwork
from trainer.data.intensity import IntensityRange
from trainer.errors import WeightsError
from trainer.networks.module import KerasModule
from trainer.optimizers import load_state
from trainer.rundir import RESUME
from trainer.schedule import LearningRate

# What may differ between the run that was killed and the one that goes on.
_FREE = {
    "num_epochs": True,
    "checkpoints": True,
    "device": True,
    "cuda_graph": True,
    "debug": True,
    "outfile": True,
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """What changes as a network is trained."""

    network: KerasModule
    optimizer: torch.optim.Optimizer
    learning_rate: LearningRate
    keeper: CheckpointKeeper
    intensity_range: IntensityRange | None = None


@dataclass(frozen=True)
class State:
    """What `resume.pt` holds: training as it was after `epoch`."""

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


def save_state(training: Training, config: NeuralNetwork, *, epoch: int, started: float) -> None:
    """Write the state after an epoch, if the config asks for it: three times the weights."""
    if not config.checkpoints.resume:
        return
    on_cuda = next(training.network.parameters()).is_cuda
    state = State(
        epoch=epoch,
        time_s=time.monotonic() - started,
        config=_comparable(config),
        network=training.network.state_dict(),
        optimizer=training.optimizer.state_dict(),
        scheduler=training.learning_rate.state_dict(),
        keeper=training.keeper.state,
        rng=torch.get_rng_state(),  # of dropout
        cuda_rng=torch.cuda.get_rng_state() if on_cuda else None,
        intensity_range=training.intensity_range.as_json() if training.intensity_range else None,
    )
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(State)}
    write_checkpoint(fields, _path(config))


def read_state(config: NeuralNetwork) -> State | None:
    """Return the state to go on from: None for a run that begins.

    Raises:
        WeightsError: the file is broken, or was written by a run with another config.
    """
    if not config.checkpoints.resume or not _path(config).exists():
        return None
    path = _path(config)
    try:
        state = State(**torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError):
        raise WeightsError(f"{path}: cannot be read; remove it to begin anew") from None
    now = _comparable(config)
    differing = sorted(key for key in now if now[key] != state.config.get(key))
    if differing:
        raise WeightsError(
            f"{path} is of a run with other settings ({', '.join(differing)}); give this one "
            "another checkpoints.save, or remove the file to begin anew"
        )
    return state


def restore(training: Training, state: State) -> None:
    """Put training back to where it was."""
    training.network.load_state_dict(state.network)
    load_state(training.optimizer, state.optimizer)
    training.learning_rate.load_state_dict(state.scheduler)
    training.keeper.state = state.keeper
    torch.set_rng_state(state.rng)
    if state.cuda_rng is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state.cuda_rng)


def _path(config: NeuralNetwork) -> Path:
    assert config.checkpoints.save is not None  # checked with the config
    return Path(config.checkpoints.save) / RESUME


def _comparable(config: NeuralNetwork) -> dict[str, Any]:
    dumped: dict[str, Any] = config.model_dump(mode="json", exclude=_FREE)
    return dumped
