"""Loads weights into a built network, and writes them for Keras.

Every source (Keras's files, our `.pt`) is matched by layer and parameter name; what does not
match is skipped, said in the log, and counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.errors import WeightsError
from trainer.networks.efficientnet_lite import with_our_names
from trainer.networks.encoder import encoder_layers, first_layers
from trainer.networks.graph import Graph
from trainer.networks.module import KerasModule
from trainer.networks.network_module import NetworkModule
from trainer.networks.parse import Network
from trainer.networks.spec import Weight
from trainer.networks.stored import (
    READ_ERRORS,
    is_keras_archive,
    is_torch,
    open_keras_file,
    write_legacy_h5,
    write_numbered_h5,
)
from trainer.networks.tensors import load_tensors, tensor_problem
from trainer.networks.torchscript import is_torchscript, read_torchscript

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
    """How many parameters of the file were loaded or skipped; how many the file lacks.

    `intensity_range` is what our `.pt` says about the images that the model was trained on.
    """

    num_loaded: int
    num_skipped: int
    num_missing: int
    intensity_range: object = None


@dataclass(frozen=True)
class _Candidate:
    """A parameter of a file: what it is called there, where it belongs, in torch's layout."""

    label: str
    key: str | None
    value: Tensor
    guess: str = ""


def load_weights(
    module: NetworkModule, network: Network, path: Path, log: Log, *, allow_partial: bool = False
) -> LoadReport:
    """Load weights by name from Keras's files, or a `.pt` of torch or libtorch.

    A plug-in's network takes a `.pt` only, by the names of its own `state_dict`.

    `log` gets a line for each skipped or adapted parameter. Raises WeightsError if the file is
    missing or corrupt, if nothing matches, or (unless `allow_partial`) if fewer than half of
    the encoder's numbers do: a half-filled encoder trains worse than it looks.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    if not os.access(path, os.R_OK):
        raise WeightsError(f"{path}: cannot be read: permission denied")
    candidates: Iterable[_Candidate]
    intensity_range: object = None
    loader = _Loader(module, network, log)
    if h5py.is_hdf5(path) or is_keras_archive(path):
        candidates = _from_keras(*_keras_only(module, network, path), path, loader.first)
    elif is_torch(path):
        content = _read_torch(path)
        candidates = _from_torch(content, with_our_names if _is_keras(network) else None, path)
        intensity_range = content.get("intensity_range")
    else:
        raise WeightsError(
            f"{path}: is neither of Keras (.h5, .keras) nor a .pt of torch; is it complete?"
        )
    for candidate in candidates:
        loader.take(candidate)
    return replace(loader.finish(path, allow_partial), intensity_range=intensity_range)


EARLIER = "earlier"
MAX_ADAPTED = 4096  # channels of a first layer that are made one
SPARE_VALUES = 2**22  # that a file may name twice, of a network of any size


def stored_mask_resize(path: Path) -> str | None:
    """Return what a checkpoint of ours says of its masks; None of another's file, or none.

    One that was written before there was a choice is EARLIER.
    """
    return _stored(path, "mask_resize", ("exact", "opencv"))


def stored_rotate_direction(path: Path) -> str | None:
    """Return where `rotate` turned the images of a checkpoint of ours, or EARLIER; None as above.

    EARLIER is counter-clockwise.
    """
    return _stored(path, "rotate_direction", ("clockwise", "counterclockwise"))


def _stored(path: Path, key: str, known: tuple[str, ...]) -> str | None:
    try:
        if not path.is_file() or not is_torch(path) or is_torchscript(path):
            return None
        # Mapped: the weights are read later, by `load_weights`, which says what is wrong.
        content = load_tensors(path)
    except Exception:  # noqa: BLE001  (torch raises whatever the bytes lead it to)
        return None
    if not isinstance(content, dict) or "format" not in content:
        return None
    found = content.get(key)
    return found if found in known else EARLIER


class _Loader:
    """Sorts a file's parameters into loaded and skipped, then copies the former."""

    def __init__(self, module: NetworkModule, network: Network, log: Log) -> None:
        self.own: dict[str, Tensor] = module.state_dict()
        self.log = log
        self.found: dict[str, Tensor] = {}
        self.misshapen: set[str] = set()
        self.num_skipped = 0
        # Which layers of a plug-in's network come first, and which encode, only its author knows.
        self.first: tuple[str, ...] = ()
        encoder: tuple[str, ...] = ("",)
        if isinstance(module, KerasModule) and isinstance(network, Graph):
            names = module.module_names
            self.first = tuple(f"{names[name]}." for name in first_layers(network))
            layers = encoder_layers(network, module.shapes)
            encoder = tuple(f"{names[name]}." for name in layers)
        self.encoder_is = "encoder" if self.first else "network"
        self.encoder = [key for key in self.own if key.startswith(encoder)]

    def take(self, candidate: _Candidate) -> None:
        key, value = candidate.key, candidate.value
        if key is None or key not in self.own:
            self._skip(candidate, key or candidate.guess, "the network has no such parameter")
            return
        wanted = self.own[key].shape
        if value.shape != wanted and key.startswith(self.first):
            adapted = adapt_channels(value, wanted)
            if adapted is not None:
                self.log(
                    f"Adapting parameter {_labelled(key, candidate.label)} of the first layer: "
                    f"shape {tuple(value.shape)} in the file, {tuple(wanted)} in the model"
                )
                value = adapted
        if value.shape != wanted:
            reason = f"shape {tuple(value.shape)} in the file, {tuple(wanted)} in the model"
            self.misshapen.add(key)
            self._skip(candidate, key, reason)
            return
        self.found[key] = value

    def _skip(self, candidate: _Candidate, key: str, reason: str) -> None:
        self.num_skipped += 1
        self.log(f"Skipping parameter {_labelled(key, candidate.label)}: {reason}")

    def finish(self, path: Path, allow_partial: bool) -> LoadReport:
        if not self.found:
            raise WeightsError(
                f"{path}: none of its {self.num_skipped} parameters matches the network; "
                "is it of another network? Parameters are matched by the layers' names"
            )
        total = sum(self.own[key].numel() for key in self.encoder)
        loaded = sum(self.own[key].numel() for key in self.encoder if key in self.found)
        if loaded < total / 2 and not allow_partial:
            raise WeightsError(
                f"{path}: only {loaded:,} of the {self.encoder_is}'s {total:,} numbers match; is "
                "it of another network? Parameters are matched by the layers' names"
            )
        with torch.no_grad():
            for key, tensor in self.found.items():
                self.own[key].copy_(tensor)  # state_dict's tensors share the module's memory
        # The contract's line: a parameter of the network that the model in the file lacks.
        for key in self.own:
            if key not in self.found and key not in self.misshapen:
                self.log(f"Skipping parameter {key}: not found in model")
        report = LoadReport(len(self.found), self.num_skipped, len(self.own) - len(self.found))
        self.log(
            f"Loaded {report.num_loaded} parameters from {path} ({report.num_skipped} skipped, "
            f"{report.num_missing} of the model not in the file)"
        )
        return report


def _labelled(key: str, label: str) -> str:
    return key if label in ("", key) else f"{key} ({label})"


def adapt_channels(value: Tensor, wanted: torch.Size) -> Tensor | None:
    """Fit a first layer to gray images where the file's had colour, or the other way.

    A kernel's channels are summed, or divided among three: a gray image as three equal
    channels gives the same result in both. Per-channel vectors are averaged or repeated.
    """
    if not can_adapt(tuple(value.shape), tuple(wanted)):
        return None
    if value.ndim == 1:
        return value.mean(0, keepdim=True) if wanted[0] == 1 else value.repeat(wanted[0])
    if wanted[1] == 1:
        return value.sum(1, keepdim=True)
    return value.repeat_interleave(wanted[1], dim=1) / wanted[1]


def can_adapt(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Say whether `adapt_channels` fits a first layer's parameter of this shape."""
    if len(shape) != len(wanted) or not shape or max(shape) > MAX_ADAPTED:
        return False
    axis = min(1, len(shape) - 1)
    others = [n for i, n in enumerate(shape) if i != axis]
    same = others == [n for i, n in enumerate(wanted) if i != axis]
    return same and 1 in (shape[axis], wanted[axis])


def _read_torch(path: Path) -> dict[Any, Any]:
    if is_torchscript(path):
        return dict(read_torchscript(path))
    try:
        content: Any = load_tensors(path)
    except Exception as error:  # noqa: BLE001  (torch raises whatever the bytes lead it to)
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: cannot be read as a .pt of torch ({reason})") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds no state_dict")
    return content


def _is_keras(network: Network) -> bool:
    return isinstance(network, Graph)


def _keras_only(module: NetworkModule, network: Network, path: Path) -> tuple[KerasModule, Graph]:
    """Return a network of Keras's.

    Raises:
        WeightsError: it is a plug-in's.
    """
    if not isinstance(module, KerasModule) or not isinstance(network, Graph):
        raise WeightsError(
            f"{path}: is Keras's, and the network a plug-in's, written in PyTorch; give it a .pt "
            "with the state_dict of its module"
        )
    return module, network


def _from_torch(
    content: dict[Any, Any],
    renamed: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None,
    path: Path,
) -> list[_Candidate]:
    if isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    # prefixes that DistributedDataParallel and torch.compile leave in the keys
    keys = {key: str(key).removeprefix("module.").removeprefix("_orig_mod.") for key in content}
    state = {
        keys[key]: value
        for key, value in content.items()
        if isinstance(value, Tensor)
        and not (renamed is not None and keys[key].endswith("num_batches_tracked"))
    }
    for key, value in state.items():
        problem = tensor_problem(value)
        if problem:
            raise WeightsError(f"{path}: {key} holds {problem}; expected real numbers")
    state = state if renamed is None else renamed(state)
    return [_Candidate("", key, value) for key, value in state.items()]


def _from_keras(
    module: KerasModule, graph: Graph, path: Path, first: tuple[str, ...]
) -> Iterable[_Candidate]:
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
                    yield _Candidate(item.label, None, torch.empty(0), guess)
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
                yield _Candidate(item.label, key, value)
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
