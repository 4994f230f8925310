"""Filters of HDF5, by which data sets are compressed: which are there, and where to get others."""

from __future__ import annotations

import importlib
from pathlib import Path

import h5py

from trainer.errors import DataError

PLUGINS = "hdf5plugin"  # on PyPI; importing it registers what it brings
# Registered at https://github.com/HDFGroup/hdf5_plugins; files need not hold the names.
OF_PLUGINS = {
    307: "bzip2", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp",
    32015: "zstd", 32017: "sz", 32018: "fcidecomp", 32024: "sz3", 32026: "blosc2",
    32028: "sperr",
}  # fmt: skip


def refuse_unknown_filters(item: h5py.Dataset, path: Path) -> None:
    """Refuse a data set whose values cannot be unpacked here, before any is read.

    Raises:
        DataError: names the filter and where to get it.
    """
    pipeline = item.id.get_create_plist()
    filters = [pipeline.get_filter(index) for index in range(pipeline.get_nfilters())]
    for code, _, _, stored_name in filters:
        if h5py.h5z.filter_avail(code) or _is_brought(code):
            continue
        name = OF_PLUGINS.get(code) or stored_name.decode(errors="replace").split(";")[0]
        remedy = f"install it (pip install {PLUGINS})" if code in OF_PLUGINS else "install it"
        raise DataError(
            f"{path}[{item.name.lstrip('/')}]: is compressed by a filter that is not installed: "
            f"{name or 'without a name'}, number {code}; {remedy}, or compress the file anew "
            "where it is: h5repack -f GZIP=4 OLD NEW"
        )


def _is_brought(code: int) -> bool:
    try:
        importlib.import_module(PLUGINS)
    except ImportError:
        return False
    return bool(h5py.h5z.filter_avail(code))
