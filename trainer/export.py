"""Writes a config's network with its weights for Keras."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.config import NeuralNetwork
from trainer.data.dataset import Resolve
from trainer.errors import ConfigError, TrainerError
from trainer.log import Log
from trainer.networks import load_network
from trainer.networks.module import build_module
from trainer.networks.weights import export_keras_h5, load_weights

UNKNOWN_SIZE = 256  # divisible by every stride of a usual network


def export(config: NeuralNetwork, config_dir: Path, path: Path, log: Log) -> None:
    """Write the network of `layers`, with the weights of `checkpoints.load`, to a `.h5` file.

    Without `checkpoints.load` the weights are the initial ones of the config's seed.

    Raises:
        ConfigError: `layers` is no file, or the output has another suffix.
    """
    resolve = Resolve(config_dir)
    if path.suffix != ".h5":
        raise ConfigError(f"--export: {path} should end in .h5")
    if not isinstance(config.layers, str):
        raise ConfigError("--export needs the network in a file: set layers to its name")
    graph = load_network(resolve(config.layers))
    torch.manual_seed(config.seed)
    module = build_module(graph, _exact(graph.input_shape))
    if config.checkpoints.load:
        load_weights(module, graph, resolve(config.checkpoints.load), log)
    try:
        export_keras_h5(module, graph, path)
    except OSError as error:
        raise TrainerError(f"{path}: cannot be written ({error})") from None
    log(f"Wrote {path}")


def _exact(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """Return an input shape without unknown sizes: parameters do not depend on them."""
    return tuple(UNKNOWN_SIZE if size is None else size for size in shape)
