"""Opens the files of torch: tensors only, of no more than the file's own bytes."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.bounded import BoundError, open_regular
from trainer.zipped import open_zip, refuse_packed

MAX_PICKLE_BYTES = 16 * 2**20  # a thousand tensors take 100 kB


def load_tensors(path: Path) -> Any:
    """Return what `torch.save` has written, its tensors mapped: what nobody takes is not read.

    Raises:
        BoundError: it is no regular file, or holds more than its bytes.
        Exception: whatever the bytes lead torch to.
    """
    os.close(open_regular(path, follow_links=True))
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        with open_zip(path) as archive:
            refuse_packed(archive, "/data/")
            for info in archive.infolist():
                if info.filename.endswith("data.pkl") and info.file_size > MAX_PICKLE_BYTES:
                    raise BoundError(f"{info.filename} has {info.file_size} bytes")
    # Before torch 1.6 it was a plain pickle, which cannot be mapped.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


def tensor_problem(value: Tensor) -> str:
    """Say what is wrong with a tensor that is to be a weight; "" if nothing is."""
    if value.is_complex():
        return "complex numbers"
    if value.layout is not torch.strided or value.is_quantized or value.is_nested:
        return f"a tensor of layout {value.layout}"
    if value.device.type != "cpu":
        return f"a tensor without numbers (on {value.device.type!r})"
    return ""
