"""Reads data sets of HDF5 files that nobody vouches for.

HDF5 follows links, and data sets whose values are in other files, without a word; a chunk of a
few kB may unpack to any size. Here nothing outside the file is opened, and what a data set takes
is looked at before it is read.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from trainer.bounded import BoundError

DEFLATE, SHUFFLE, FLETCHER32, SZIP, NBIT, SCALE_OFFSET, LZF = 1, 2, 3, 4, 5, 6, 32000
PLAIN_FILTERS = frozenset({DEFLATE, SHUFFLE, FLETCHER32, LZF})  # what they unpack is bounded
MAX_RATIO = 1032  # of deflate
UNCHECKED_BYTES = 2**26  # a chunk that cannot unpack to more is left to HDF5
MAX_CHUNKS, MIN_CHUNK_VALUES = 2**16, 256
MAX_DEPTH = 100  # of groups in groups
MAX_NAMES = 200_000


def child(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Return what a path of names leads to within the file, None where there is nothing.

    Raises:
        BoundError: the way leads through a link.
    """
    item: Any = group
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if len(parts) > MAX_DEPTH:
        raise BoundError(f"{name[:80]} is nested too deep")
    for part in parts:
        if not isinstance(item, h5py.Group):
            return None
        link = item.get(part, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise BoundError(f"{name[:200]} is a link, which is not followed")
        item = item[part]
    found: h5py.Group | h5py.Dataset = item
    return found


def refuse_elsewhere(item: h5py.Dataset) -> None:
    """Refuse a data set whose values are not its own.

    Raises:
        BoundError: it keeps them in other files or data sets.
    """
    files = [str(name) for name, _, _ in item.external or ()]
    if item.is_virtual:
        files += [source.file_name for source in item.virtual_sources()[:10]]
    if files:
        raise BoundError(
            f"data set {item.name!r} keeps its values in other files or data sets "
            f"({', '.join(dict.fromkeys(files))}), which are not followed; write the values "
            "themselves into the file"
        )


def filters_of(item: h5py.Dataset) -> list[tuple[int, tuple[int, ...], bytes]]:
    """Return number, values and name of each filter that a data set's chunks go through."""
    pipeline = item.id.get_create_plist()
    found = [pipeline.get_filter(index) for index in range(pipeline.get_nfilters())]
    return [(code, tuple(values), name) for code, _, values, name in found]


def check_storage(item: h5py.Dataset, unchecked_bytes: int = UNCHECKED_BYTES) -> None:
    """Refuse a data set that takes much more memory or time than its values.

    Args:
        item: to be read, in whole or in part.
        unchecked_bytes: a packed chunk that may unpack to more is unpacked once, to see.

    Raises:
        BoundError: it says which and why.
    """
    refuse_elsewhere(item)
    if item.chunks is None or not item.size:
        return
    size, per_chunk = item.size, math.prod(item.chunks)
    again = "write it anew: h5repack -f GZIP=4 OLD NEW"
    # Chunks of a data set that grows are as large as it is meant to be.
    if per_chunk > max(4 * size, unchecked_bytes // 32):
        raise BoundError(f"{item.name}: chunks of {item.chunks} for a shape {item.shape}; {again}")
    number = math.prod(-(-n // c) for n, c in zip(item.shape, item.chunks, strict=True))
    if number > MAX_CHUNKS and per_chunk < MIN_CHUNK_VALUES:
        raise BoundError(f"{item.name}: {number} chunks of {per_chunk} values; {again}")
    used = filters_of(item)
    codes = [code for code, _, _ in used]
    for code, values, _ in used:
        # What these unpack to stands in the file.
        is_said = code in (NBIT, SCALE_OFFSET)
        if is_said and (len(values) < 5 or values[2] != per_chunk):
            raise BoundError(f"{item.name}: its filter {code} is damaged; {again}")
    if codes.count(DEFLATE) > 1 or len(set(codes)) < len(codes):
        raise BoundError(f"{item.name}: is packed twice; {again}")
    if DEFLATE in codes:
        _check_deflated(item, codes.index(DEFLATE), per_chunk, unchecked_bytes)
    if SZIP in codes:
        _check_szip(item, per_chunk)


def _check_deflated(item: h5py.Dataset, place: int, per_chunk: int, unchecked_bytes: int) -> None:
    # beyond: what a filter before it has added, as a sum of four bytes
    room = per_chunk * item.dtype.itemsize + 64
    suspects: list[tuple[int, ...]] = []

    def look(info: Any) -> None:
        if (
            info.size * MAX_RATIO > max(unchecked_bytes, room)
            and not info.filter_mask >> place & 1
        ):
            suspects.append(info.chunk_offset)

    item.id.chunk_iter(look)
    for offset in suspects:
        _, content = item.id.read_direct_chunk(offset)
        unpacked, left, unpacker = 0, content, zlib.decompressobj()
        while left and not unpacker.eof:
            unpacked += len(unpacker.decompress(left, 2**20))
            left = unpacker.unconsumed_tail
            if unpacked > room:
                raise BoundError(f"{item.name}: a chunk of it unpacks to more than it holds")


def _check_szip(item: h5py.Dataset, per_chunk: int) -> None:
    room = per_chunk * item.dtype.itemsize + 64
    offsets: list[tuple[int, ...]] = []
    item.id.chunk_iter(lambda info: offsets.append(info.chunk_offset))
    for offset in offsets:
        _, content = item.id.read_direct_chunk(offset)
        if int.from_bytes(content[:4], "little") > room:
            raise BoundError(f"{item.name}: a chunk of it unpacks to more than it holds")


def read_numbers(item: h5py.Dataset, max_values: int) -> NDArray[Any]:
    """Return the numbers of a data set, packed by nothing but what every HDF5 brings.

    Raises:
        BoundError: it holds more than `max_values`, or something else.
    """
    if item.dtype.kind not in "fiu":
        raise BoundError(f"{item.name} holds {item.dtype}; expected numbers")
    if item.size is None or item.size > max_values:
        raise BoundError(f"{item.name} holds {item.size} numbers; expected {max_values} at most")
    unknown = [code for code, _, _ in filters_of(item) if code not in PLAIN_FILTERS]
    if unknown:
        raise BoundError(
            f"{item.name}: is packed by filter number {unknown[0]}; write it anew: "
            "h5repack -f GZIP=4 OLD NEW"
        )
    check_storage(item)
    return np.asarray(item)
