"""Reads and writes Keras's HDF5 layout of weights (`layer_names`, `weight_names` attributes)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

# HDF5 holds at most 64 KiB of attributes in an object's header; Keras splits what is longer
_HEADER_LIMIT = 64512


@dataclass(frozen=True)
class StoredWeight:
    """A variable of a file: its layer, its name there (`conv0/kernel:0`), and its value."""

    layer: str
    name: str
    value: NDArray[Any]

    def candidates(self) -> list[str]:
        """Return the `layer/variable` names that it may have in the model, the likeliest first.

        Within nested models the file names the outer layer only, and puts the inner ones into
        the variable's name, with or without the outer one in front.
        """
        path = self.name.split(":")[0].split("/")
        variable, parents = path[-1], path[:-1]
        keys = [f"{self.layer}/{variable}"]
        if parents:
            inner = "/".join(parents)
            keys = [f"{self.layer}/{inner}/{variable}", f"{inner}/{variable}", *keys]
            keys.sort(key=lambda key: inner != self.layer and key == f"{self.layer}/{variable}")
            if inner == self.layer:
                keys = [f"{self.layer}/{variable}"]
        return keys


def _texts(attributes: h5py.AttributeManager, name: str) -> list[str]:
    """Read a list of names, which Keras splits into `name0`, `name1`, … if it is long."""
    if name in attributes:
        items = list(attributes[name])
    else:
        items, number = [], 0
        while f"{name}{number}" in attributes:
            items += list(attributes[f"{name}{number}"])
            number += 1
    return [item.decode("utf-8") if isinstance(item, bytes) else str(item) for item in items]


def read_keras_h5(path: Path) -> list[StoredWeight]:
    """Read all weights of a whole model or of a weights-only file."""
    with h5py.File(path, "r") as file:
        root = file.get("model_weights", file)
        names = _texts(root.attrs, "layer_names")
        if not names:
            raise ValueError("it has no layer_names; was it written by Keras's save_weights?")
        return [
            StoredWeight(layer, name, np.asarray(root[layer][name]))
            for layer in names
            for name in _texts(root[layer].attrs, "weight_names")
        ]


def write_keras_h5(path: Path, layers: dict[str, list[tuple[str, NDArray[np.float32]]]]) -> None:
    """Write weights by layer; every layer is listed, also those without any."""
    with h5py.File(path, "w") as file:
        _write_texts(file.attrs, "layer_names", list(layers))
        file.attrs["backend"] = "tensorflow"
        file.attrs["keras_version"] = "2.9.0"
        for layer, weights in layers.items():
            group = file.create_group(layer)
            _write_texts(group.attrs, "weight_names", [name for name, _ in weights])
            for name, value in weights:
                group.create_dataset(name, data=value)


def _write_texts(attributes: h5py.AttributeManager, name: str, texts: list[str]) -> None:
    data = np.asarray([text.encode("utf-8") for text in texts], dtype="S")
    if not texts or data.nbytes <= _HEADER_LIMIT:
        attributes[name] = data if texts else np.zeros(0, dtype="S1")
        return
    chunks = np.array_split(data, -(-data.nbytes // _HEADER_LIMIT) + 1)
    for number, chunk in enumerate(chunks):
        attributes[f"{name}{number}"] = chunk
