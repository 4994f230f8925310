"""Saves a worker's start what torch would import and a plain training run never uses."""

from __future__ import annotations

import sys

import torch

_OPTIMIZERS = (torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adam)


def leave_out_compiler() -> None:
    """Let optimizers work without importing torch's compiler: over a third of a start's time.

    torch hides its optimizers from the compiler: by a wrapper around some methods, which imports
    torch._dynamo (and sympy with it) to find out how, and by another around `step`. Where nothing
    is compiled there is nothing to hide from. So the first wrapper is told that the method itself
    will do, and the second gives way to the `no_grad` that it comes down to. A torch that wraps
    in another way imports as before. Must come before the first optimizer.
    """
    if "torch._dynamo" in sys.modules:
        return
    for method in vars(torch.optim.Optimizer).values():
        hidden = getattr(method, "__wrapped__", None)
        if hidden is not None and getattr(method, "__module__", "") == "torch.optim.optimizer":
            hidden.__dynamo_disable = hidden
    for optimizer in _OPTIMIZERS:  # AdamW has Adam's step; L-BFGS, LARS and LAMB have no_grad
        step = vars(optimizer)["step"]
        if getattr(getattr(step, "__code__", None), "co_name", "") == "_use_grad":
            optimizer.step = torch.no_grad()(step.__wrapped__)  # type: ignore[method-assign]
