"""Builds the optimizer of a run from its config."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from trainer.config import optimizers as cfg
from trainer.errors import NetworkError
from trainer.optimizers.adagrad import Adagrad
from trainer.optimizers.layerwise import LAMB, LARS

# Pairs of steps and gradient changes that L-BFGS keeps, each twice the size of the network: with
# torch's 100, 32 million parameters would take 26 GB. Nocedal and Wright (2006, 7.2): 3 to 20.
HESSIAN_HISTORY = 10


# How an optimizer computes, which is no part of a state: another device may continue it.
_IMPLEMENTATION = ("lr", "capturable", "foreach", "fused")


def build_optimizer(
    config: cfg.Optimizer, parameters: Iterable[nn.Parameter], *, capturable: bool = False
) -> torch.optim.Optimizer:
    """Return the optimizer over those parameters that are not frozen.

    Args:
        config: its section.
        parameters: of the network.
        capturable: a step may be captured as a CUDA graph: it reads nothing back, and no number
            that changes from step to step is Python's.

    Raises:
        NetworkError: every parameter is frozen, or there is none.
    """
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        raise NetworkError(
            "the network has no trainable parameter; unfreeze a layer (trainable: true) or "
            "leave out data.input_path to evaluate only"
        )
    optimizer = _build(config, trained, capturable)
    # torch warns of steps before the capture, which make what it needs
    optimizer._warned_capturable_if_run_uncaptured = True
    return optimizer


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state, of whatever device, and go on computing as it was built to."""
    groups = [
        {**saved, **{key: group[key] for key in _IMPLEMENTATION if key in group}}
        for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


def _build(
    config: cfg.Optimizer, trained: list[nn.Parameter], capturable: bool
) -> torch.optim.Optimizer:
    lr = config.learning_rate
    if isinstance(config, cfg.Hessian):
        return torch.optim.LBFGS(
            trained,
            lr=lr,
            max_iter=config.max_iterations,
            max_eval=config.max_func_eval,
            tolerance_grad=config.absolute_tolerance,
            tolerance_change=config.relative_tolerance,
            history_size=HESSIAN_HISTORY,
            # Without it a step may go uphill, and on a network it soon does.
            line_search_fn="strong_wolfe",
        )
    decay = config.weight_decay
    # One kernel for all parameters instead of some ten per parameter; where torch has no fused
    # form it has one that batches them (foreach).
    match config:
        case cfg.SGD():
            return torch.optim.SGD(
                trained,
                lr=lr,
                weight_decay=decay,
                momentum=config.momentum,
                dampening=config.dampening,
                nesterov=config.nesterov,
                fused=True,
            )
        case cfg.LARS():
            return LARS(
                trained,
                lr=lr,
                weight_decay=decay,
                momentum=config.momentum,
                dampening=config.dampening,
                nesterov=config.nesterov,
                eta=config.eta,
            )
        case cfg.LAMB():
            return LAMB(
                trained,
                lr=lr,
                weight_decay=decay,
                betas=(config.beta1, config.beta2),
                eps=config.eps,
                amsgrad=config.amsgrad,
            )
        case cfg.RMSprop():
            return torch.optim.RMSprop(
                trained,
                lr=lr,
                weight_decay=decay,
                momentum=config.momentum,
                alpha=config.alpha,
                eps=config.eps,
                centered=config.centered,
                foreach=True,
                capturable=capturable,
            )
        case cfg.Adagrad() if capturable:
            return Adagrad(trained, lr=lr, weight_decay=decay, lr_decay=config.lr_decay)
        case cfg.Adagrad():
            on_cpu = trained[0].device.type == "cpu"  # where torch 2.6 has it fused, 4 x faster
            return torch.optim.Adagrad(
                trained,
                lr=lr,
                weight_decay=decay,
                lr_decay=config.lr_decay,
                fused=on_cpu,
                foreach=not on_cpu,
            )
        case cfg.Adam() | cfg.AdamW():
            kind = torch.optim.AdamW if isinstance(config, cfg.AdamW) else torch.optim.Adam
            return kind(
                trained,
                lr=lr,
                weight_decay=decay,
                betas=(config.beta1, config.beta2),
                eps=config.eps,
                amsgrad=config.amsgrad,
                fused=True,
                capturable=capturable,
            )


# What torch and our config call the same.
_NAMES = {"lr": "learning_rate", "max_iter": "max_iterations", "max_eval": "max_func_eval"}
_NAMES |= {"tolerance_grad": "absolute_tolerance", "tolerance_change": "relative_tolerance"}
_TYPES = {"LBFGS": "Hessian"}


def settings_in_use(optimizer: torch.optim.Optimizer, config: cfg.Optimizer) -> dict[str, Any]:
    """Return the settings of `config` as the optimizer has them, which was built of it."""
    (group,) = optimizer.param_groups
    found = {_NAMES.get(key, key): value for key, value in group.items() if key != "params"}
    if "betas" in found:
        found["beta1"], found["beta2"] = found.pop("betas")
    name = type(optimizer).__name__
    in_use = {key: value for key, value in found.items() if key in type(config).model_fields}
    return {"type": _TYPES.get(name, name), **in_use}


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether `step` must be given a function that computes loss and gradients anew.

    L-BFGS calls it many times for one batch, so dropout and batch statistics make its line
    search see a different function each time: it suits small networks and large batches.
    """
    return isinstance(optimizer, torch.optim.LBFGS)
