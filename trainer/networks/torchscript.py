"""Reads the tensors of a TorchScript archive, which is what libtorch saves, without running it.

The archive's pickle is walked with nothing but the few names that libtorch writes for tensors and
modules; its code is never looked at.
"""

from __future__ import annotations

import io
import itertools
import math
import mmap
import os
import pickle
import shlex
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.bounded import open_regular
from trainer.errors import WeightsError
from trainer.networks.stored import READ_ERRORS
from trainer.zipped import open_zip, read_member, refuse_packed, stored_at

MAX_PICKLE_BYTES = 16 * 2**20
MAX_TENSOR_BYTES = 16 * 2**30  # of all tensors' numbers
CHECKED_BYTES = 2**28  # of a tensor; larger ones are not compared with their checksum
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
        with open_zip(path) as archive:
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
    with open_zip(path) as archive:
        refuse_packed(archive, "/data/")
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError("it has no data.pkl, as archives of torch before 1.4 have none")
        prefix = names[0].removesuffix("data.pkl")
        order = f"{prefix}byteorder"
        if order in archive.namelist() and _content(archive, order, 16) != b"little":
            raise ValueError("its numbers are big-endian")
        data = io.BytesIO(_content(archive, names[0], MAX_PICKLE_BYTES))
        root = _Reader(data, _Storages(path, archive, f"{prefix}data/")).load()
        return dict(_tensors(root, "", 0, itertools.count()))


def _content(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    return read_member(archive, archive.getinfo(name), limit)


class _Storages:
    """The numbers of an archive, mapped: what nobody takes is not read."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, folder: str) -> None:
        self._archive = archive
        self._folder = folder
        self._bytes_left = MAX_TENSOR_BYTES
        descriptor = open_regular(path, follow_links=True)
        try:
            # Copied where it is written to, which torch wants to be allowed.
            self._content = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
        finally:
            os.close(descriptor)

    def read(self, key: str, dtype: torch.dtype) -> Tensor:
        """Return all numbers of a storage."""
        info = self._archive.getinfo(f"{self._folder}{key}")
        start, size = stored_at(self._archive, info), info.file_size
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise ValueError(f"{info.filename} unpacks to {size} bytes")
        if size <= CHECKED_BYTES:
            with memoryview(self._content) as whole, whole[start : start + size] as part:
                if zlib.crc32(part) != info.CRC:
                    raise ValueError(f"{info.filename} is damaged")
        empty = torch.empty(0, dtype=dtype)
        if size % empty.itemsize:
            raise ValueError(f"{info.filename} is cut off")
        if not size:
            return empty
        count = size // empty.itemsize
        return torch.frombuffer(self._content, dtype=dtype, count=count, offset=start)


class _Held(NamedTuple):
    """Keeps a tensor from the pickle, which could call its `__setstate__`: that acts."""

    tensor: Tensor


class _Reader(pickle.Unpickler):
    """Knows tensors, dictionaries and, as bare records, modules: nothing that acts."""

    def __init__(self, file: io.BytesIO, storages: _Storages) -> None:
        super().__init__(file)
        self._content = storages
        self._storages: dict[str, Tensor] = {}
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
            self._storages[key] = self._content.read(key, _DTYPES[dtype])
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
