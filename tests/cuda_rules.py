"""CUDA's refusals, on any machine: a device of tensors without numbers, and a watch over it.

torch's "meta" tensors have a device, shape and type, and no values: whatever reads one fails, as
does whatever mixes devices. torch's FakeTensorMode would tell "cuda", but only where torch is
built for it. What else a CPU accepts and CUDA refuses, or waits for, the watch knows. It cannot
know which kernels CUDA lacks for a type, nor what they compute: that is for tests/gpu.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
aten = torch.ops.aten

COPIES = {"copy_", "_to_copy", "lift_fresh", "_pin_memory"}
# name -> places of weight and bias: CUDA's backward pass wants both or none
NORMALIZATIONS = {
    "native_batch_norm": (1, 2),
    "_native_batch_norm_legit": (1, 2),
    "_batch_norm_with_update": (1, 2),
    "cudnn_batch_norm": (1, 2),
    "native_group_norm": (1, 2),
}
READING = {
    "_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "equal", "allclose",
}  # fmt: skip
UNSIGNED = {torch.uint16, torch.uint32, torch.uint64}  # few kernels, none that index
# https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html
IN_NO_FIXED_ORDER = {
    "nll_loss2d_forward", "nll_loss2d_backward", "scatter_add_", "scatter_add",
    "index_add_", "put_", "kthvalue", "median", "grid_sampler_2d_backward",
}  # fmt: skip


class RefusedError(AssertionError):
    """CUDA would refuse this, or wait."""


class _Watch(TorchDispatchMode):
    def __init__(self, is_step: bool, is_ordered: bool) -> None:
        super().__init__()
        self._is_step, self._is_ordered = is_step, is_ordered

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = [value for value in tensors if value.device == META]
        # A number of the host's is handed to the kernel; more than one would be copied.
        elsewhere = [value for value in tensors if value.device != META and value.ndim > 0]
        self._check(name, args, tensors, on_device, elsewhere, kwargs or {})
        if name.startswith("_fused_") and name.endswith("_") and on_device:
            return None  # an optimizer's, in place: torch has no such kernel on this device
        return func(*args, **(kwargs or {}))

    def _check(
        self,
        name: str,
        args: Any,
        tensors: list[Tensor],
        on_device: list[Tensor],
        elsewhere: list[Tensor],
        kwargs: dict[str, Any],
    ) -> None:
        goes_there = kwargs.get("device") == META or bool(on_device)
        if name in COPIES:
            if self._is_step and elsewhere and goes_there:
                raise RefusedError(f"{name}: copies from the host in a step")
            return
        if on_device and elsewhere:
            raise RefusedError(f"{name}: tensors on {META} and {elsewhere[0].device}")
        if on_device and name in READING:
            raise RefusedError(f"{name}: waits for the device")
        if name == "index" and any(value.dtype == torch.bool for value in on_device[1:]):
            raise RefusedError("index: by a mask, whose size is waited for")
        if name in NORMALIZATIONS:
            weight, bias = (args[place] for place in NORMALIZATIONS[name])
            if weight is None and bias is not None:
                raise RefusedError(f"{name}: a bias without a weight")
        if any(value.dtype in UNSIGNED for value in on_device):
            raise RefusedError(f"{name}: {on_device[0].dtype} has no kernel")
        if self._is_ordered and name in IN_NO_FIXED_ORDER:
            is_exact = all(not value.is_floating_point() for value in tensors)
            if not is_exact:
                raise RefusedError(f"{name}: adds in no fixed order")


class _NoConstants(TorchFunctionMode):
    """Refuses tensors made of the host's numbers: torch shows no copy of them to a meta device."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.new_tensor):
            raise RefusedError(f"{func.__name__}: a constant made in a step is copied in each")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def cuda_rules(*, is_step: bool = False, is_ordered: bool = False) -> Iterator[None]:
    """Refuse what CUDA refuses.

    Args:
        is_step: also what a training step, or an evaluation's batch, must not do: to copy from
            the host.
        is_ordered: also what adds floats in no fixed order.
    """
    with contextlib.ExitStack() as stack:
        if is_step:
            stack.enter_context(_NoConstants())
        stack.enter_context(_Watch(is_step, is_ordered))
        yield
