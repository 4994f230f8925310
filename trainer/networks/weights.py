"""Loads weights into a built network.

Every source (Keras's files, our `.pt`) is matched by layer and parameter name; what does not
match is skipped, said in the log, and counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import torch
from torch import Tensor

from trainer.errors import WeightsError
from trainer.networks.candidates import Candidate, adapt_channels
from trainer.networks.efficientnet_lite import with_our_names
from trainer.networks.encoder import encoder_layers, first_layers
from trainer.networks.graph import Graph
from trainer.networks.keras_weights import keras_candidates
from trainer.networks.module import KerasModule
from trainer.networks.network_module import NetworkModule
from trainer.networks.parse import Network
from trainer.networks.stored import is_keras_archive, is_torch
from trainer.networks.torch_weights import read_torch, torch_candidates

Log = Callable[[str], None]


@dataclass(frozen=True)
class LoadReport:
    """How many parameters of the file were loaded or skipped; how many the file lacks.

    `intensity_range` is what our `.pt` says about the images that the model was trained on.
    """

    num_loaded: int
    num_skipped: int
    num_missing: int
    intensity_range: object = None


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
    candidates: Iterable[Candidate]
    intensity_range: object = None
    loader = _Loader(module, network, log)
    if h5py.is_hdf5(path) or is_keras_archive(path):
        candidates = keras_candidates(*_keras_only(module, network, path), path, loader.first)
    elif is_torch(path):
        content = read_torch(path)
        candidates = torch_candidates(
            content, with_our_names if _is_keras(network) else None, path
        )
        intensity_range = content.get("intensity_range")
    else:
        raise WeightsError(
            f"{path}: is neither of Keras (.h5, .keras) nor a .pt of torch; is it complete?"
        )
    for candidate in candidates:
        loader.take(candidate)
    return replace(loader.finish(path, allow_partial), intensity_range=intensity_range)


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

    def take(self, candidate: Candidate) -> None:
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

    def _skip(self, candidate: Candidate, key: str, reason: str) -> None:
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
