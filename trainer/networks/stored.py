"""Reads the weights of Keras's files, whatever their layout, as one list of `StoredWeight`.

Layouts: the legacy `.h5` of Keras 2 and 3 (whole model, or weights only), `.weights.h5` of
Keras 2.12 on and 3, and the archive `.keras`. Legacy files name every variable; the newer ones
number them by layer, and name the layers only since Keras 3.4: before, layers are numbered by
class, in the order of the model's list.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from trainer.networks.names import numbered, snake_case

# HDF5 holds at most 64 KiB of attributes in an object's header; Keras splits what is longer
_HEADER_LIMIT = 64512
# guards against files made to fill the memory
_MAX_ARCHIVE_BYTES = 16 * 2**30  # of weights, unpacked
_MAX_CONFIG_BYTES = 64 * 2**20
_MAX_WEIGHT_SIZE = 2**32  # numbers in one variable

Listing = Sequence[tuple[tuple[str, ...], str]]  # (path of names, class) of every layer


# what h5py, zipfile and json raise when a file's bytes are not what they should be
READ_ERRORS = (
    OSError,
    LookupError,
    ValueError,
    RuntimeError,
    TypeError,
    AttributeError,
    EOFError,
    MemoryError,
    RecursionError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class StoredWeight:
    """A variable of a file: its name there, and the `layer/variable` keys that it may match."""

    label: str
    keys: tuple[str, ...]
    value: NDArray[Any]


def read_keras_file(path: Path, listing: Listing) -> list[StoredWeight]:
    """Read every weight of a Keras file; `listing` is the model's layers in the file's order."""
    if is_zip(path):
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("model.weights.h5")
            if info.file_size > _MAX_ARCHIVE_BYTES:
                raise ValueError(f"its weights unpack to {info.file_size} bytes")
            content = io.BytesIO(archive.read(info))
        with h5py.File(content, "r") as file:
            return list(_numbered_weights(file, listing))
    with h5py.File(path, "r") as file:
        root = file.get("model_weights", file)
        if _texts(root.attrs, "layer_names"):
            return list(_named_weights(root))
        found = list(_numbered_weights(file, listing))
        if not found:
            raise ValueError("it has neither layer_names nor layers of Keras")
        return found


def is_zip(path: Path) -> bool:
    """Tell whether a file is a zip archive; a damaged one is none."""
    try:
        return zipfile.is_zipfile(path)
    except READ_ERRORS:
        return False


def is_torch(path: Path) -> bool:
    """Tell a file of torch: a zip archive, or before torch 1.6 a pickle of protocol 2."""
    with path.open("rb") as file:
        return file.read(2) == b"\x80\x02" or is_zip(path)


def is_keras_archive(path: Path) -> bool:
    """Tell a `.keras` archive from torch's, which is a zip file too."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "model.weights.h5" in archive.namelist()
    except READ_ERRORS:
        return False


def read_model_config(path: Path) -> Any:
    """Return the network's JSON that a whole-model `.h5` or a `.keras` archive carries.

    `keras_version`, which these files keep beside the network, is put into it: what a name
    means may depend on it, and the JSON goes on without the file.
    """
    if is_zip(path):
        with zipfile.ZipFile(path) as archive:
            config = _archived_json(archive, "config.json")
            try:
                version = _archived_json(archive, "metadata.json")["keras_version"]
            except (LookupError, TypeError):
                version = None
    else:
        with h5py.File(path, "r") as file:
            config = json.loads(file.attrs["model_config"])
            version = file.attrs.get("keras_version")
    if isinstance(version, bytes):
        version = version.decode("utf-8", "replace")
    if isinstance(config, dict) and isinstance(version, str):
        config["keras_version"] = version
    return config


def _archived_json(archive: zipfile.ZipFile, name: str) -> Any:
    info = archive.getinfo(name)
    if info.file_size > _MAX_CONFIG_BYTES:
        raise ValueError(f"its {name} unpacks to {info.file_size} bytes")
    return json.loads(archive.read(info))


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


def _array(item: object, name: str) -> NDArray[Any]:
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds no numbers")
    if item.size is None or item.size > _MAX_WEIGHT_SIZE:
        raise ValueError(f"{name} holds {item.size} numbers")
    return np.asarray(item)


def _named_weights(root: h5py.Group) -> Iterator[StoredWeight]:
    for layer in _texts(root.attrs, "layer_names"):
        group = root[layer]
        names = _texts(group.attrs, "weight_names")
        owners = {name.rpartition("/")[0] for name in names}
        for name in names:
            keys = _legacy_keys(layer, name, nested=len(owners) > 1)
            yield StoredWeight(name, keys, _array(group[name], name))


def _legacy_keys(layer: str, name: str, nested: bool) -> tuple[str, ...]:
    """List the keys of a named variable, the surest first.

    Within a nested model the file names the outermost one as the layer, and the inner layer in
    the variable's name: with its whole path (Keras 3, late Keras 2), or just its own name.
    """
    inner, _, variable = name.split(":")[0].rpartition("/")
    if variable.startswith("variable_"):  # Keras 3 numbers those that have no name
        variable = "variable"
    exact = inner if inner == layer or inner.startswith(f"{layer}/") else f"{layer}/{inner}"
    last = inner.rsplit("/", maxsplit=1)[-1]
    keys = [f"{exact}/{variable}", f"{layer}>{last}/{variable}"]
    # beyond are a layer under another scope's name, or an encoder that is nested on one side only
    keys.append(f"*>{last}/{variable}" if nested else f"{layer}/{variable}")
    if not nested:
        keys.append(f"*>{layer}/{variable}")
    return tuple(dict.fromkeys(keys))


def _numbered_weights(file: h5py.File, listing: Listing) -> Iterator[StoredWeight]:
    """Walk `layers/conv2d_1/vars/0`; nested models have `layers` of their own."""
    by_place = _places(listing)
    found: list[tuple[str, h5py.Dataset]] = []

    def visit(name: str, item: object) -> None:
        parent, _, number = name.rpartition("/")
        if isinstance(item, h5py.Dataset) and parent.endswith("/vars") and number.isdigit():
            found.append((name, item))

    file.visititems(visit)
    for name, item in found:
        parts = name.replace("\\", "/").split("/")[:-2]
        place = tuple(p for p in parts if p not in ("layers", "_layer_checkpoint_dependencies"))
        if not place or place[0] == "optimizer" or "seed_generator" in place:
            continue
        path = _names_in_file(file, name.split("/")[:-2]) or by_place.get(place)
        number = name.rsplit("/", maxsplit=1)[-1]
        layer = "/".join(path) if path else "/".join(place)
        yield StoredWeight(
            name, (f"{layer}/#{number}", f"*>{layer.split('/')[-1]}/#{number}"), _array(item, name)
        )


def _names_in_file(file: h5py.File, parts: list[str]) -> tuple[str, ...] | None:
    names = []
    for end in range(1, len(parts) + 1):
        variables = file.get("/".join([*parts[:end], "vars"]))
        if variables is None:
            continue  # a `layers` group in between
        name = variables.attrs.get("name")
        if name is None:
            return None
        names.append(name.decode("utf-8") if isinstance(name, bytes) else str(name))
    return tuple(names) or None


def _places(listing: Listing) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Map places by class and number (`conv2d_1`) to paths of names."""
    counts: dict[tuple[tuple[str, ...], str], int] = {}
    places: dict[tuple[str, ...], tuple[str, ...]] = {(): ()}
    paths: dict[tuple[str, ...], tuple[str, ...]] = {(): ()}
    for path, kind in listing:
        parent, base = path[:-1], snake_case("Functional" if kind == "Model" else kind)
        number = counts.get((parent, base), 0)
        counts[parent, base] = number + 1
        place = (*paths.get(parent, parent), numbered(base, number))
        paths[path] = place
        places[place] = path
    return places


def write_numbered_h5(
    path: Path, listing: Listing, layers: Mapping[str, Sequence[NDArray[np.float32]]]
) -> None:
    """Write weights in the layout of `.weights.h5`, numbered as Keras's model lists its layers."""
    with h5py.File(path, "w") as file:
        file.create_group("vars")
        for place, names in _places(listing).items():
            if not place:
                continue
            group = file.create_group("/".join(f"layers/{part}" for part in place) + "/vars")
            group.attrs["name"] = names[-1]
            for number, value in enumerate(layers.get("/".join(names), ())):
                group.create_dataset(str(number), data=value)


def write_legacy_h5(path: Path, layers: dict[str, list[tuple[str, NDArray[np.float32]]]]) -> None:
    """Write weights by layer in the legacy layout; layers without weights are listed too."""
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
