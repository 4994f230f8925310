"""Reads the weights of Keras's files, whatever their layout, as one list of `StoredWeight`.

Layouts: the legacy `.h5` of Keras 2 and 3 (whole model, or weights only), `.weights.h5` of
Keras 2.12 on and 3, and the archive `.keras`. Legacy files name every variable; the newer ones
number them by layer, and name the layers only since Keras 3.4: before, layers are numbered by
class, in the order of the model's list.
"""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from trainer.bounded import BoundError
from trainer.hdf5 import MAX_DEPTH, MAX_NAMES, child, read_numbers
from trainer.networks.keras_text import parse_json_text
from trainer.networks.names import numbered, snake_case
from trainer.zipped import Window, open_zip, read_member, stored_at

# HDF5 holds at most 64 KiB of attributes in an object's header; Keras splits what is longer
_HEADER_LIMIT = 64512
# guards against files made to fill the memory
MAX_CONFIG_BYTES = 64 * 2**20  # of a network's JSON: the largest of keras.applications has 1.5 MB
_MAX_TEXT_BYTES = 2**30  # of one list of names
_MAX_SIZE = 2**40  # numbers in one variable: nothing is read for that, but counted
_WEIGHTS = "model.weights.h5"  # in a .keras

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
    """A variable of a file: its name there, and the `layer/variable` keys that it may match.

    Its numbers are read when they are asked for: a file may hold any number that nothing needs.
    """

    label: str
    keys: tuple[str, ...]
    item: h5py.Dataset

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.item.shape)

    def read(self, max_values: int) -> NDArray[Any]:
        """Return the numbers.

        Raises:
            BoundError: more than `max_values`, or they are kept in another file.
        """
        return read_numbers(self.item, max_values)


@contextlib.contextmanager
def open_keras_file(
    path: Path, listing: Listing, max_bytes: int
) -> Iterator[Iterator[StoredWeight]]:
    """Give the weights of a Keras file while it is open; nothing outside it is opened.

    Args:
        path: the file.
        listing: the model's layers in the file's order.
        max_bytes: of a `.keras` whose weights are packed; as Keras writes it they are not.
    """
    with contextlib.ExitStack() as stack:
        if is_zip(path):
            with open_zip(path) as archive:
                content = _archived_weights(path, archive, max_bytes)
            file = stack.enter_context(h5py.File(stack.enter_context(content), "r"))
            yield _numbered_weights(file, listing)
            return
        file = stack.enter_context(h5py.File(path, "r"))
        root = child(file, "model_weights") or file
        if _texts(root, "layer_names"):
            yield _named_weights(root)
            return
        found = list(_numbered_weights(file, listing))
        if not found:
            raise ValueError("it has neither layer_names nor layers of Keras")
        yield iter(found)


def _archived_weights(path: Path, archive: zipfile.ZipFile, max_bytes: int) -> io.IOBase:
    info = archive.getinfo(_WEIGHTS)
    if info.compress_type == zipfile.ZIP_STORED:
        return io.BufferedReader(Window(path, stored_at(archive, info), info.file_size))
    try:
        return io.BytesIO(read_member(archive, info, max_bytes))
    except BoundError as error:
        raise BoundError(f"{error}; save the model anew, which packs no weights") from None


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
        with open_zip(path) as archive:
            return _WEIGHTS in archive.namelist()
    except READ_ERRORS:
        return False


def read_model_config(path: Path) -> Any:
    """Return the network's JSON that a whole-model `.h5` or a `.keras` archive carries.

    `keras_version`, which these files keep beside the network, is put into it: what a name
    means may depend on it, and the JSON goes on without the file.
    """
    if is_zip(path):
        with open_zip(path) as archive:
            config = _archived_json(archive, "config.json")
            try:
                version = _archived_json(archive, "metadata.json")["keras_version"]
            except (LookupError, TypeError):
                version = None
    else:
        with h5py.File(path, "r") as file:
            config = parse_json_text(_text(_attribute(file, "model_config")))
            version = None
            if "keras_version" in file.attrs:
                version = _text(_attribute(file, "keras_version"))
    if isinstance(config, dict) and isinstance(version, str):
        config["keras_version"] = version
    return config


def _archived_json(archive: zipfile.ZipFile, name: str) -> Any:
    content = read_member(archive, archive.getinfo(name), MAX_CONFIG_BYTES)
    return parse_json_text(content.decode("utf-8-sig"))


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str) or len(value) > MAX_CONFIG_BYTES:
        raise ValueError("an attribute is no text")
    return value


def _attribute(owner: h5py.Group, name: str) -> Any:
    """Return an attribute, unless it takes much more memory than the file has bytes."""
    found = owner.attrs.get_id(name)
    number = math.prod(found.shape or ())
    each = found.dtype.itemsize
    if found.dtype.kind == "O" and number > 1:  # of any length, and all may be the same one
        each = _bytes_beside_data(owner.file)
    if number > MAX_NAMES or number * each > _MAX_TEXT_BYTES:
        raise ValueError(f"its attribute {name} is too large")
    return owner.attrs[name]


def _bytes_beside_data(file: h5py.File) -> int:
    size = int(file.id.get_filesize())
    for _, item in _walk(file, "", set()) if size > 2**20 else ():
        size -= item.id.get_storage_size()
    return max(size, 0)


def _texts(owner: h5py.Group, name: str) -> list[str]:
    """Read a list of names, which Keras splits into `name0`, `name1`, … if it is long."""
    if name in owner.attrs:
        items = list(_attribute(owner, name))
    else:
        items, number = [], 0
        while f"{name}{number}" in owner.attrs:
            items += list(_attribute(owner, f"{name}{number}"))
            number += 1
            if len(items) > MAX_NAMES:
                raise ValueError(f"its attribute {name} is too large")
    return [item.decode("utf-8") if isinstance(item, bytes) else str(item) for item in items]


def _numbers(item: object, name: str) -> h5py.Dataset:
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds no numbers")
    if item.size is None or item.size > _MAX_SIZE:
        raise ValueError(f"{name} holds {item.size} numbers")
    return item


def _named_weights(root: h5py.Group) -> Iterator[StoredWeight]:
    left = MAX_NAMES
    for layer in _texts(root, "layer_names"):
        group = child(root, layer)
        if not isinstance(group, h5py.Group):
            raise ValueError(f"it has no layer {layer}")
        names = _texts(group, "weight_names")
        left -= 1 + len(names)
        if left < 0:
            raise ValueError(f"it names more than {MAX_NAMES} weights")
        owners = {name.rpartition("/")[0] for name in names}
        for name in names:
            keys = _legacy_keys(layer, name, nested=len(owners) > 1)
            yield StoredWeight(name, keys, _numbers(child(group, name), name))


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
    for name, item in _walk(file, "", set()):
        parent, _, number = name.rpartition("/")
        if not parent.endswith("/vars") or not number.isdigit():
            continue
        parts = name.replace("\\", "/").split("/")[:-2]
        place = tuple(p for p in parts if p not in ("layers", "_layer_checkpoint_dependencies"))
        if not place or place[0] == "optimizer" or "seed_generator" in place:
            continue
        path = _names_in_file(file, name.split("/")[:-2]) or by_place.get(place)
        number = name.rsplit("/", maxsplit=1)[-1]
        layer = "/".join(path) if path else "/".join(place)
        yield StoredWeight(
            name,
            (f"{layer}/#{number}", f"*>{layer.split('/')[-1]}/#{number}"),
            _numbers(item, name),
        )


def _walk(group: h5py.Group, path: str, seen: set[int]) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield the data sets below a group, each once, whatever number of names it has."""
    if path.count("/") > MAX_DEPTH:
        raise ValueError(f"its groups are nested more than {MAX_DEPTH} deep")
    for name in sorted(group):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{path}{name} is a link, which is not followed")
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        if len(seen) > MAX_NAMES:
            raise ValueError(f"it holds more than {MAX_NAMES} groups and data sets")
        if isinstance(item, h5py.Group):
            yield from _walk(item, f"{path}{name}/", seen)
        elif isinstance(item, h5py.Dataset):
            yield f"{path}{name}", item


def _names_in_file(file: h5py.File, parts: list[str]) -> tuple[str, ...] | None:
    names = []
    group: Any = file
    for part in parts:
        group = child(group, part)
        if not isinstance(group, h5py.Group):
            return None
        variables = child(group, "vars")
        if variables is None:
            continue  # a `layers` group in between
        if "name" not in variables.attrs:
            return None
        names.append(_text(_attribute(variables, "name")))
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
