"""Loads weights into a built network, and writes them for Keras.

Every source (Keras's `.h5`, our `.pt`) is read as named arrays in torch's layout, then matched
by layer and parameter name; what does not match is skipped, said in the log, and counted.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.errors import WeightsError
from trainer.networks.graph import Graph
from trainer.networks.keras_h5 import StoredWeight, read_keras_h5, write_keras_h5
from trainer.networks.module import KerasModule
from trainer.networks.spec import Weight

Log = Callable[[str], None]

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


@dataclass(frozen=True)
class LoadReport:
    """How many parameters of the file were loaded or skipped; how many the file lacks."""

    num_loaded: int
    num_skipped: int
    num_missing: int


def load_weights(module: KerasModule, graph: Graph, path: Path, log: Log) -> LoadReport:
    """Load weights by name from Keras's `.h5` or our `.pt`; `log` gets a line per skipped one.

    Raises WeightsError if the file is missing or corrupt, or if nothing in it matches.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    if h5py.is_hdf5(path):
        report = _load_keras(module, graph, path, log)
    elif zipfile.is_zipfile(path):
        report = _load_torch(module, path, log)
    else:
        raise WeightsError(
            f"{path}: is neither HDF5 (Keras's .h5) nor a .pt of torch; is it complete?"
        )
    log(
        f"Loaded {report.num_loaded} parameters from {path} ({report.num_skipped} skipped, "
        f"{report.num_missing} of the model not in the file)"
    )
    return report


def _load_torch(module: KerasModule, path: Path, log: Log) -> LoadReport:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  (torch raises whatever the bytes lead it to)
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: cannot be read as a .pt of torch ({reason})") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds no state_dict")
    given = {
        str(key).removeprefix("module."): value
        for key, value in content.items()
        if isinstance(value, Tensor) and not str(key).endswith("num_batches_tracked")
    }
    own = module.state_dict()
    skipped = 0
    found: dict[str, Tensor] = {}
    for key, tensor in given.items():
        if key not in own:
            skipped += 1
            log(f"Skipping parameter {key}: not found in model")
        elif own[key].shape != tensor.shape:
            skipped += 1
            log(_mismatch(key, "", tuple(tensor.shape), tuple(own[key].shape)))
        else:
            found[key] = tensor
    return _assign(module, own, found, skipped, path)


def _load_keras(module: KerasModule, graph: Graph, path: Path, log: Log) -> LoadReport:
    try:
        stored = read_keras_h5(path)
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise WeightsError(f"{path}: cannot be read as Keras's HDF5 ({error})") from None
    targets = keras_targets(module, graph)
    own = module.state_dict()
    found: dict[str, Tensor] = {}
    skipped = 0
    for item in stored:
        match = next((targets[key] for key in item.candidates() if key in targets), None)
        if match is None:
            skipped += 1
            log(f"Skipping parameter {_guess(item)} ({item.name}): not found in model")
            continue
        key, weight = match
        if item.value.shape != weight.shape:
            skipped += 1
            log(_mismatch(key, item.name, item.value.shape, weight.shape))
            continue
        found[key] = from_keras(item.value, weight)
    return _assign(module, own, found, skipped, path)


def _mismatch(key: str, name: str, in_file: tuple[int, ...], in_model: tuple[int, ...]) -> str:
    label = f"{key} ({name})" if name else key
    return f"Skipping parameter {label}: shape {in_file} in the file, {in_model} in the model"


def _guess(item: StoredWeight) -> str:
    layer, _, variable = item.candidates()[0].rpartition("/")
    return f"{layer}.{_TORCH_NAMES.get(variable, variable)}"


def _assign(
    module: KerasModule,
    own: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    skipped: int,
    path: Path,
) -> LoadReport:
    if not found:
        raise WeightsError(
            f"{path}: none of its {skipped} parameters matches the network; "
            "is it of another network? Parameters are matched by the layers' names"
        )
    with torch.no_grad():
        for key, tensor in found.items():
            own[key].copy_(tensor)  # state_dict's tensors share the module's memory
    return LoadReport(len(found), skipped, len(own) - len(found))


def keras_targets(module: KerasModule, graph: Graph) -> dict[str, tuple[str, Weight]]:
    """Map `layer/variable`, under each name that Keras gives it, to the parameter."""
    targets: dict[str, tuple[str, Weight]] = {}
    for layer in graph.layers():
        for weight in module.layer_weights.get(layer.name, ()):
            key = f"{module.module_names[layer.name]}.{weight.torch_name}"
            for name in (weight.name, *weight.aliases):
                targets[f"{layer.name}/{name}"] = (key, weight)
    return targets


def from_keras(value: NDArray[Any], weight: Weight) -> Tensor:
    """Bring an array of Keras's layout into torch's."""
    array = value.transpose(weight.axes) if weight.axes else value
    return torch.from_numpy(np.array(array, dtype=np.float32).reshape(weight.torch_shape))


def to_keras(tensor: Tensor, weight: Weight) -> NDArray[np.float32]:
    """Bring a parameter into Keras's layout."""
    array = tensor.detach().float().cpu().contiguous().numpy().reshape(weight.transposed_shape)
    if weight.axes:
        array = array.transpose(np.argsort(weight.axes))
    return np.ascontiguousarray(array)


def export_keras_h5(module: KerasModule, graph: Graph, path: Path) -> None:
    """Write the weights as Keras's weights-only `.h5`, to be loaded by name or in order."""
    state = module.state_dict()
    layers: dict[str, list[tuple[str, NDArray[np.float32]]]] = {}
    for layer in graph.layers():
        name = module.module_names[layer.name]
        entries = layers.setdefault(layer.path[0], [])
        for weight in module.layer_weights.get(layer.name, ()):
            value = to_keras(state[f"{name}.{weight.torch_name}"], weight)
            entries.append((f"{layer.path[-1]}/{weight.name}:0", value))
    write_keras_h5(path, layers)
