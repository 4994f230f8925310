"""Writes a config's network with its weights for Keras and ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.config import NeuralNetwork
from trainer.data.dataset import Resolve
from trainer.data.intensity import IntensityRange
from trainer.errors import ConfigError, TrainerError
from trainer.log import Log
from trainer.model import network_input_shape
from trainer.networks import Graph, PluginNetwork, load_network
from trainer.networks.blueprint import make_blueprint
from trainer.networks.export import export_onnx
from trainer.networks.module import KerasModule
from trainer.networks.weights import export_keras_h5, load_weights
from trainer.setup.fit import resolve_activation


def export(config: NeuralNetwork, config_dir: Path, path: Path, log: Log) -> None:
    """Write the network of `layers` with the weights of `checkpoints.load`.

    `.onnx` holds network and weights for ONNX Runtime, (N, C, H, W) in and out; `.weights.h5`
    (Keras 3) and `.h5` (Keras 2 and 3) the weights, to be loaded into the network's JSON file. Of
    a plug-in's network there is `.onnx` only, which gives probabilities as `--predict` does.
    Without `checkpoints.load` the weights are the initial ones of the config's seed.

    Raises:
        ConfigError: `layers` is no file, or the output has another suffix.
    """
    resolve = Resolve.of(config, config_dir)
    if path.suffix not in (".h5", ".onnx"):
        raise ConfigError(f"--export: {path} should end in .onnx, .weights.h5 or .h5")
    if not isinstance(config.layers, str):
        raise ConfigError("--export needs the network in a file: set layers to its name")
    network = load_network(resolve(config.layers))
    if isinstance(network, PluginNetwork) and path.suffix != ".onnx":
        raise ConfigError(
            f"--export: {path}: network {network.title!r} is a plug-in's, written in PyTorch, of "
            "which Keras can read neither layers nor weights; export it as .onnx"
        )
    torch.manual_seed(config.seed)
    input_shape = network_input_shape(network, config)
    blueprint = make_blueprint(network, input_shape)
    module = blueprint.build()
    if config.checkpoints.load:
        report = load_weights(module, network, resolve(config.checkpoints.load), log)
        span = IntensityRange.of_checkpoint(report.intensity_range)
        if span is not None and not span.is_full_scale:
            log(f"note: the file does not say how inputs are scaled: {span}")
    try:
        if path.suffix == ".onnx":
            is_plugin = isinstance(network, PluginNetwork)
            # Nothing but the config says what a plug-in's logits are of.
            activation = resolve_activation(config, blueprint.facts) if is_plugin else None
            export_onnx(module, input_shape, path, activation)
        elif isinstance(module, KerasModule) and isinstance(network, Graph):
            export_keras_h5(module, network, path)
    except OSError as error:
        raise TrainerError(f"{path}: cannot be written ({error})") from None
    log(f"Wrote {path}")
