"""Reads the tensors of a TorchScript archive, which is what libtorch saves, without running it.

The archive's pickle is walked with nothing but the few names that libtorch writes for tensors and
modules; its code is never looked at.
"""

from __future__ import annotations

import io
import itertools
import math
import pickle
import shlex
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.errors import WeightsError
from trainer.networks.stored import READ_ERRORS

MAX_PICKLE_BYTES = 64 * 2**20
MAX_TENSOR_BYTES = 16 * 2**30  # of all tensors' numbers, unpacked
MAX_NESTING = 200
MAX_VISITS = 2**20

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# helpers of TorchScript that return their first argument, a list or a tensor
_WRAPPERS = (
    "build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag",
)  # fmt: skip


def is_torchscript(path: Path) -> bool:
    """Tell an archive of TorchScript from a pickle of tensors, which is a zip file too."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except READ_ERRORS:
        return False


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Return every tensor by its dotted path, as `state_dict` would name it.

    Raises:
        WeightsError: the archive is damaged, or holds more than tensors, numbers and modules.
    """
    try:
        return _read(path)
    except Exception as error:  # noqa: BLE001  (a pickle raises whatever its bytes lead it to)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"{path}: cannot be read as an archive of TorchScript ({reason}); if you trust it, "
            'convert it: python -c "import sys, torch; torch.save(torch.jit.load(sys.argv[1], '
            f"map_location='cpu').state_dict(), 'weights.pt')\" {shlex.quote(str(path))}"
        ) from None


def _read(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError("it has no data.pkl, as archives of torch before 1.4 have none")
        prefix = names[0].removesuffix("data.pkl")
        order = f"{prefix}byteorder"
        if order in archive.namelist() and _content(archive, order, 16) != b"little":
            raise ValueError("its numbers are big-endian")
        data = io.BytesIO(_content(archive, names[0], MAX_PICKLE_BYTES))
        root = _Reader(data, archive, f"{prefix}data/").load()
        return dict(_tensors(root, "", 0, itertools.count()))


def _content(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    size = archive.getinfo(name).file_size
    if size > limit:
        raise ValueError(f"{name} unpacks to {size} bytes")
    return archive.read(name)


class _Held(NamedTuple):
    """Keeps a tensor from the pickle, which could call its `__setstate__`: that acts."""

    tensor: Tensor


class _Reader(pickle.Unpickler):
    """Knows tensors, dictionaries and, as bare records, modules: nothing that acts."""

    def __init__(self, file: io.BytesIO, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive = archive
        self._folder = folder
        self._storages: dict[str, Tensor] = {}
        self._bytes_left = MAX_TENSOR_BYTES
        # Made for each file, because a pickle can set attributes of what it is given.
        self._known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): lambda *items: dict(*items),
            ("torch._utils", "_rebuild_tensor_v2"): lambda held, *args: _Held(
                _rebuilt(held.tensor, *args[:3])
            ),
            ("torch._utils", "_rebuild_parameter"): lambda value, *_: value,
            **{("torch.jit._pickle", name): lambda value, *_: value for name in _WRAPPERS},
        }
        self._record = type("Record", (), {})

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return name
        if module == "__torch__" or module.startswith("__torch__."):
            return self._record
        if (module, name) not in self._known:
            raise ValueError(f"it holds {module}.{name}")
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> _Held:
        kind, dtype, key = pid[:3]
        if kind != "storage" or dtype not in _DTYPES or not isinstance(key, str):
            raise ValueError("it holds more than tensors")
        if key not in self._storages:
            content = _content(self._archive, f"{self._folder}{key}", self._bytes_left)
            self._bytes_left -= len(content)
            empty = torch.empty(0, dtype=_DTYPES[dtype])
            whole = torch.frombuffer(bytearray(content), dtype=empty.dtype) if content else empty
            self._storages[key] = whole
        return _Held(self._storages[key])


def _rebuilt(storage: Tensor, offset: int, size: tuple[int, ...], stride: Any) -> Tensor:
    if offset < 0 or any(n < 0 for n in (*size, *stride)):
        raise ValueError("a tensor's place in its storage makes no sense")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # Else numbers beyond it would be read; more numbers than it has would fill the memory.
    if 0 not in size and (last >= len(storage) or math.prod(size) > len(storage)):
        raise ValueError("a tensor reaches beyond its storage")
    # No copy: a pickle may name a storage any number of times.
    return storage.as_strided(size, stride, offset)


def _tensors(
    item: object, path: str, depth: int, visits: Iterator[int]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors among a record's attributes, and those of the records within."""
    if depth > MAX_NESTING:
        raise ValueError(f"its modules are nested more than {MAX_NESTING} deep")
    if next(visits) > MAX_VISITS:  # two attributes of each record may be the same one
        raise ValueError(f"its modules have more than {MAX_VISITS} attributes")
    if isinstance(item, _Held):
        yield path, item.tensor
        return
    values = item if isinstance(item, dict) else getattr(item, "__dict__", {})
    if callable(item) or not isinstance(values, dict):
        return
    for name, value in values.items():
        yield from _tensors(value, f"{path}.{name}" if path else str(name), depth + 1, visits)
