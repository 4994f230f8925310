"""Reads a `.pt` of torch or libtorch: its parameters, and what one of ours says of itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from trainer.errors import WeightsError
from trainer.networks.candidates import Candidate
from trainer.networks.stored import is_torch
from trainer.networks.tensors import load_tensors, tensor_problem
from trainer.networks.torchscript import is_torchscript, read_torchscript

EARLIER = "earlier"  # than what is asked for


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


def read_torch(path: Path) -> dict[Any, Any]:
    """Return what a `.pt` holds, code never.

    Raises:
        WeightsError: it cannot be read, or holds no dictionary.
    """
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


def torch_candidates(
    content: dict[Any, Any],
    renamed: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None,
    path: Path,
) -> list[Candidate]:
    """Return the parameters of what `read_torch` has read, under the names that `renamed` gives.

    Raises:
        WeightsError: one holds no real numbers.
    """
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
    return [Candidate("", key, value) for key, value in state.items()]
