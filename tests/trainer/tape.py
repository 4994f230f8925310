"""Stands in for a CUDA graph on a CPU: repeats the operators that a step issued, as they were.

As a graph does, it takes every number of Python's as it was at the capture, and every tensor by
its memory. So what would go wrong in a graph goes wrong here: a learning rate or a count of steps
that is not on the device, a branch on what was drawn, a step's samples that are not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
# These read a value back, or need one to know the size of what they return.
WAITING = {
    aten._local_scalar_dense.default,
    aten.bincount.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.unique_dim.default,
    aten._unique2.default,
}


class Operators(TorchDispatchMode):
    """Notes the operators that are issued, those of backward passes too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @property
    def waits(self) -> list[str]:
        """Names of those that would wait for a GPU."""
        found = [str(func) for func, *_ in self.calls if func in WAITING]
        for func, args, *_ in self.calls:
            by_mask = func in (aten.index.Tensor, aten.index_put_.default) and any(
                index is not None and index.dtype == torch.bool for index in args[1]
            )
            found += [f"{func} by a mask"] if by_mask else []
        return found

    def script(self) -> list[tuple[str, list[object]]]:
        """Return each operator with its numbers: what a graph holds fast."""
        return [
            (str(func), [leaf for leaf in tree_leaves((args, kwargs)) if not is_tensor(leaf)])
            for func, args, kwargs, _ in self.calls
            if func.namespace != "profiler"
        ]


def is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


class Tape:
    """A `trainer.training.capture.Recorder`; `state` are all tensors that a step changes."""

    def __init__(self, state: Callable[[], list[Tensor]]) -> None:
        self._state = state
        self.num_replays = 0

    def watched(self, step: Callable[[], Tensor]) -> tuple[Tensor, str | None]:
        with Operators() as operators:
            figures = step()
        return figures, f"it waits: {operators.waits[0]}" if operators.waits else None

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        with self._undone(), Operators() as operators:
            figures = step()
        assert not operators.waits, operators.waits

        def replay() -> Tensor:
            self.num_replays += 1
            with torch.no_grad():
                for func, args, kwargs, before in operators.calls:
                    _overwrite(before, func(*args, **kwargs))
            return figures

        return replay

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Leave all as it was: a capture computes nothing."""
        before = [(tensor, tensor.detach().clone()) for tensor in self._state()]
        generator = torch.get_rng_state()
        yield
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
        torch.set_rng_state(generator)


def _overwrite(before: Any, now: Any) -> None:
    for old, new in zip(tree_leaves(before), tree_leaves(now), strict=True):
        if is_tensor(old) and old.data_ptr() != new.data_ptr():
            old.copy_(new)
