"""Copies tensors that training changes into host memory, without waiting for a GPU.

A checkpoint is written while training goes on, so it is written from a copy. On a GPU the copy
is made on the device, in training's stream: the next step is a fraction of a millisecond late.
From there a stream of its own takes it into pinned memory; the thread that writes waits for that,
nobody else does. Both memories are kept for the next copy, and given back with the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes, of each tensor in the memory that all share
# Of free device memory before any is taken for copies: a step that has needed all of it once will
# do so again.
ROOM_FACTOR = 2

Key = tuple[torch.dtype, torch.Size, tuple[int, ...]]


class Snapshots:
    """Makes copies of one nested value after the other, in memory that is used again.

    Used by one thread; a snapshot may be read and released by another.
    """

    def __init__(self, device: torch.device) -> None:
        """Copy what is on `device` in this way; of the little that is elsewhere, make clones."""
        self._device = device
        self._layout = _Layout(())
        self._free: list[_Memory] = []
        self._staging: _Staging | None = None
        self._may_stage = device.type == "cuda"

    @torch.no_grad()
    def take(self, value: Any) -> Snapshot:
        """Copy a value of dictionaries, lists and tuples with all tensors in it."""
        sources = [t for t in _tensors(value) if t.device == self._device]
        keys = tuple((t.dtype, t.shape, t.stride()) for t in sources)
        if keys != self._layout.keys:
            self._lay_out(_Layout(keys))
        layout = self._layout
        on_gpu = self._device.type == "cuda"
        memory = self._free.pop() if self._free else _Memory(layout, pinned=on_gpu)
        if on_gpu:
            self._copy_from_gpu(sources, memory)
        else:
            for copy, source in zip(memory.tensors, sources, strict=True):
                copy.copy_(source)
        copies = iter(memory.tensors)
        content = _mapped(
            value, lambda t: next(copies) if t.device == self._device else t.to("cpu", copy=True)
        )

        def release() -> None:
            if layout is self._layout:
                self._free.append(memory)

        return Snapshot(content, memory, release)

    def free_device_memory(self) -> bool:
        """Do without memory on the device from now on; return whether there was any."""
        self._may_stage = False
        staging, self._staging = self._staging, None
        if staging is not None:
            staging.stream.synchronize()
        return staging is not None

    def close(self) -> None:
        """Wait for what is under way, and let all memory go."""
        with contextlib.suppress(RuntimeError):  # of a broken device the run has heard
            self._lay_out(_Layout(()))
        self._free, self._staging = [], None

    def _lay_out(self, layout: _Layout) -> None:
        if self._device.type == "cuda" and self._layout.num_bytes:
            torch.cuda.synchronize(self._device)  # what is under way into memory that goes now
        self._layout, self._staging = layout, None
        self._free = []
        if self._may_stage and layout.num_bytes:
            self._staging = _Staging.where_there_is_room(layout, self._device)

    def _copy_from_gpu(self, sources: Sequence[Tensor], memory: _Memory) -> None:
        training = torch.cuda.current_stream(self._device)
        memory.arrived = arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        staging = self._staging
        if staging is None:  # training's stream is busy for as long as the copy takes
            for copy, source in zip(memory.tensors, sources, strict=True):
                copy.copy_(source, non_blocking=True)
            arrived.record(training)
            return
        training.wait_stream(staging.stream)  # until the copy before has left
        for indices in self._layout.by_dtype:  # of one type each, or it is a kernel per tensor
            torch._foreach_copy_(
                [staging.tensors[i] for i in indices], [sources[i] for i in indices]
            )
        staging.stream.wait_stream(training)
        with torch.cuda.stream(staging.stream):
            memory.block.copy_(staging.block, non_blocking=True)
            arrived.record(staging.stream)


@dataclass(frozen=True)
class Snapshot:
    """A copy of a nested value, in memory that is overwritten once it is released."""

    _content: Any
    _memory: _Memory
    _release: Callable[[], None]

    def content(self) -> Any:
        """Return the copy; on a GPU, wait until it has arrived."""
        if self._memory.arrived is not None:
            self._memory.arrived.synchronize()
        return self._content

    def release(self) -> None:
        """Let the memory be used for another copy; to be called once, by who needs it last."""
        self._release()


class _Layout:
    """Where in one block of memory each of some tensors lies."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self.keys = keys
        self.strides: list[tuple[int, ...]] = []
        self.starts: list[int] = []
        self.num_bytes = 0
        indices: dict[torch.dtype, list[int]] = {}
        for index, (dtype, shape, stride) in enumerate(keys):
            # As dense as clone() has it; channels-last stays channels-last.
            source = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
            self.strides.append(torch.empty_like(source).stride())
            self.starts.append(self.num_bytes)
            self.num_bytes += -(-source.nbytes // ALIGNMENT) * ALIGNMENT
            indices.setdefault(dtype, []).append(index)
        self.by_dtype = list(indices.values())


class _Memory:
    """A block of host memory, and tensors in it with storages of their own.

    A file of views of one storage would bring all of it back with any tensor that is kept.
    """

    def __init__(self, layout: _Layout, *, pinned: bool) -> None:
        self.block = _host_block(layout.num_bytes, pinned=pinned)
        self.arrived: torch.cuda.Event | None = None
        self.tensors = []
        for (dtype, shape, _), stride, start in zip(
            layout.keys, layout.strides, layout.starts, strict=True
        ):
            if shape.numel() == 0:
                self.tensors.append(torch.empty(shape, dtype=dtype))
                continue
            flat = torch.frombuffer(
                self.block.numpy(), dtype=dtype, count=shape.numel(), offset=start
            )
            self.tensors.append(flat.as_strided(shape, stride))


def _host_block(num_bytes: int, *, pinned: bool) -> Tensor:
    try:
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=pinned)
    except RuntimeError:  # the system pins no more: right all the same, but copying is waited for
        return torch.empty(num_bytes, dtype=torch.uint8)


@dataclass(frozen=True)
class _Staging:
    """A copy on the device, which the next steps don't change while it travels to the host."""

    block: Tensor
    tensors: list[Tensor]
    stream: torch.cuda.Stream

    @classmethod
    def where_there_is_room(cls, layout: _Layout, device: torch.device) -> _Staging | None:
        free, _ = torch.cuda.mem_get_info(device)
        if free < ROOM_FACTOR * layout.num_bytes:
            return None
        block = torch.empty(layout.num_bytes, dtype=torch.uint8, device=device)
        tensors = [
            block[start : start + shape.numel() * dtype.itemsize]
            .view(dtype)
            .as_strided(shape, stride, start // dtype.itemsize)
            for (dtype, shape, _), stride, start in zip(
                layout.keys, layout.strides, layout.starts, strict=True
            )
        ]
        return cls(block, tensors, torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _tensors(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _tensors(entry)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Copy the containers of a nested value, and change its tensors in the order of `_tensors`."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(entry, change) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(entry, change) for entry in value)
    return value
