"""Writes a config's network with its weights for Keras and ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from trainer import __version__
from trainer.config import NeuralNetwork
from trainer.data.dataset import Resolve
from trainer.data.intensity import IntensityRange
from trainer.data.transforms import plan_transforms
from trainer.errors import ConfigError, TrainerError
from trainer.log import Log
from trainer.model import class_names, network_input_shape
from trainer.networks import Graph, NetworkFacts, PluginNetwork, load_network
from trainer.networks.blueprint import make_blueprint
from trainer.networks.export import export_onnx
from trainer.networks.keras_weights import export_keras_h5
from trainer.networks.module import KerasModule
from trainer.networks.weights import load_weights
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
    span = None
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
            scaling = _describe_scaling(config, span)
            metadata = _metadata(config, blueprint.facts, input_shape, scaling)
            export_onnx(module, input_shape, path, activation, metadata)
        elif isinstance(module, KerasModule) and isinstance(network, Graph):
            export_keras_h5(module, network, path)
    except OSError as error:
        raise TrainerError(f"{path}: cannot be written ({error})") from None
    log(f"Wrote {path}")
    if path.suffix == ".onnx":
        log("note: its metadata say how inputs are made: input_size, scaling, channels, …")
    else:
        log(
            "note: it holds weights alone, for keras.Model.load_weights: build the network of "
            f"{resolve(config.layers).name} first"
        )


def _metadata(
    config: NeuralNetwork, facts: NetworkFacts, input_shape: tuple[int, ...], scaling: str
) -> dict[str, str]:
    """Return what somebody who has the ONNX file alone has to know, as texts."""
    steps, _ = plan_transforms(config.data)
    num_channels = facts.output_shape[-1]
    names = class_names(config, num_channels)
    entries: dict[str, object] = {
        "producer": f"rml-optimize {__version__}",
        "layout": "NCHW",
        "input_size": list(input_shape[:-1]),
        "channels": "gray" if input_shape[-1] == 1 else _order(config),
        "scaling": scaling,
        "normalize": [[step.mean, step.std] for step in steps.normalize],
        "reading": [[step.name, step.value] for step in steps.reading],
        "output": "probability of the foreground, above 0.5" if num_channels == 1
        else "probability of each class, the largest",
        "class_names": list(names),
        "mask_values": list(config.data.mask_values or ((0, 255) if num_channels == 1 else ())),
    }  # fmt: skip
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in entries.items()
    }


def _order(config: NeuralNetwork) -> str:
    """Return the order of the input's colours: OpenCV's, unless the config converts them."""
    for entry in (*config.data.transforms, *config.data.input_transforms):
        if entry.convert_color is not None:
            return entry.convert_color.removesuffix("_FULL").split("2")[1]
    return "BGR"


def _describe_scaling(config: NeuralNetwork, stored: IntensityRange | None) -> str:
    """Say which stored values become 0 and 1."""
    setting = config.data.intensity_range
    if isinstance(setting, tuple):
        return f"(value - {setting[0]:g}) / {setting[1] - setting[0]:g}, clipped to 0..1"
    if setting == "full" or stored is None or stored.is_full_scale:
        bits = 8 if stored is None else stored.bits
        return f"value / {2**bits - 1}"
    return f"(value - {stored.low:g}) / {stored.high - stored.low:g}, clipped to 0..1"
