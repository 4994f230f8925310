"""Brings parameters from Keras's files and layout into torch's, and back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.errors import WeightsError
from trainer.networks.candidates import Candidate, can_adapt
from trainer.networks.graph import Graph
from trainer.networks.module import KerasModule
from trainer.networks.spec import Weight
from trainer.networks.stored import (
    READ_ERRORS,
    open_keras_file,
    write_legacy_h5,
    write_numbered_h5,
)

SPARE_VALUES = 2**22  # that a file may name twice, of a network of any size

# Keras's variable names -> torch's, for the log line of what is not in the model
_TORCH_NAMES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "alpha": "weight",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "depthwise_kernel": "weight",
}


def keras_candidates(
    module: KerasModule, graph: Graph, path: Path, first: tuple[str, ...]
) -> Iterable[Candidate]:
    """Yield the parameters of a Keras file; of `first`, other numbers of channels may do."""
    own = sum(value.numel() for value in module.state_dict().values())
    # Four times: some writers keep a variable under two names. Beside weights are an optimizer's.
    left = 4 * own + SPARE_VALUES
    targets = keras_targets(module, graph)
    try:
        with open_keras_file(path, graph.listing, 32 * own + 2**26) as stored:
            for item in stored:
                match = next((targets[key] for key in item.keys if targets.get(key)), None)
                if match is None:
                    layer, _, variable = item.keys[0].rpartition("/")
                    guess = f"{layer}.{_TORCH_NAMES.get(variable, variable)}"
                    yield Candidate(item.label, None, torch.empty(0), guess)
                    continue
                key, weight = match
                shape = _torch_shape(item.shape, weight)
                may_adapt = key.startswith(first) and can_adapt(shape, weight.torch_shape)
                if shape != weight.torch_shape and not may_adapt:
                    value = torch.empty(shape, device="meta")  # for the message's sake
                else:
                    array = item.read(left)
                    left -= array.size
                    value = from_keras(array, weight)
                yield Candidate(item.label, key, value)
    except READ_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{path}: cannot be read as Keras's weights ({reason})") from None


def _torch_shape(shape: tuple[int, ...], weight: Weight) -> tuple[int, ...]:
    """Return the shape that `from_keras` brings an array of another shape into."""
    if len(shape) != len(weight.shape):
        return shape
    if shape == weight.shape:
        return tuple(weight.torch_shape)
    return tuple(shape[axis] for axis in weight.axes) if weight.axes else shape


def keras_targets(module: KerasModule, graph: Graph) -> dict[str, tuple[str, Weight] | None]:
    """Map `layer/variable`, under each name that files give it, to the parameter.

    `outer>inner/variable` and `*>inner/variable` leave out the models between or around; where
    that is ambiguous the entry is None.
    """
    targets: dict[str, tuple[str, Weight] | None] = {}
    for layer in graph.layers():
        for number, weight in enumerate(module.layer_weights.get(layer.name, ())):
            target = (f"{module.module_names[layer.name]}.{weight.torch_name}", weight)
            for name in (weight.name, *weight.aliases, f"#{number}"):
                targets[f"{layer.name}/{name}"] = target
                for owner in (layer.path[0], "*"):
                    loose = f"{owner}>{layer.path[-1]}/{name}"
                    targets[loose] = None if loose in targets else target
    return targets


def from_keras(value: NDArray[Any], weight: Weight) -> Tensor:
    """Bring an array of Keras's layout into torch's (a wrong shape only gets its axes moved)."""
    if value.ndim != len(weight.shape):
        return torch.from_numpy(np.array(value, dtype=np.float32))
    array = np.array(value.transpose(weight.axes) if weight.axes else value, dtype=np.float32)
    if value.shape == weight.shape:
        array = array.reshape(weight.torch_shape)
    return torch.from_numpy(np.array(array, order="C"))


def to_keras(tensor: Tensor, weight: Weight) -> NDArray[np.float32]:
    """Bring a parameter into Keras's layout."""
    array = tensor.detach().float().cpu().contiguous().numpy().reshape(weight.transposed_shape)
    if weight.axes:
        array = array.transpose(np.argsort(weight.axes))
    return np.array(array, order="C")


def export_keras_h5(module: KerasModule, graph: Graph, path: Path) -> None:
    """Write the weights for Keras's `load_weights`.

    `*.weights.h5` gets the layout that Keras 3 expects under that name, any other name the
    legacy one of Keras 2, which loads by name or in order.
    """
    state = module.state_dict()
    arrays: dict[str, list[NDArray[np.float32]]] = {}
    for layer in graph.layers():
        prefix = module.module_names[layer.name]
        weights = module.layer_weights.get(layer.name, ())
        arrays[layer.name] = [to_keras(state[f"{prefix}.{w.torch_name}"], w) for w in weights]
    if path.name.endswith(".weights.h5"):
        write_numbered_h5(path, graph.listing, arrays)
        return
    layers = {layer.name: layer for layer in graph.layers()}
    written: dict[str, list[tuple[bool, str, NDArray[np.float32]]]] = {}
    for path_of_names, _ in graph.listing:
        entries = written.setdefault(path_of_names[0], [])
        name = "/".join(path_of_names)
        weights = module.layer_weights.get(name, ())
        for weight, value in zip(weights, arrays.get(name, ()), strict=True):
            frozen = not (weight.trainable and layers[name].trainable)
            entries.append((frozen, f"{name}/{weight.name}:0", value))
    # Keras reads a nested model's variables in order, those that are trained first
    ordered = {
        layer: [(name, value) for _, name, value in sorted(entries, key=lambda entry: entry[0])]
        for layer, entries in written.items()
    }
    write_legacy_h5(path, ordered)
