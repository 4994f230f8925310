"""Builds the loss of a run from its config.

Every loss takes the logits, which come before the network's last activation, and computes in
float32 what the contract defines on the activated output: the same value, and a gradient that
stays finite where the activation saturates. `log_softmax` gives the probabilities of `softmax`.

Class ids: with one channel, 1 is the foreground and all else background; with C channels,
0..C-1. Pixels whose id is `ignore_index` count nowhere.

`weight` says how much each class counts beside the others and never scales a loss: NLL, BCE, MSE
and Focal are weighted means over pixels (torch's NLLLoss does the same), Dice, Jaccard and
Lovasz over classes. With one channel, two weights are those of background and foreground.
"""

from __future__ import annotations

from functools import cache, partial

import torch
from torch import Tensor

from trainer.config import Loss
from trainer.errors import ConfigError
from trainer.losses.common import LossFunction, Term, make_batch
from trainer.losses.pixelwise import bce, focal, mse, nll
from trainer.losses.plugin import plugin_term
from trainer.losses.region import dice, jaccard, lovasz
from trainer.losses.weights import inverse_frequency_weights, resolve_weights
from trainer.networks.spec import Activation

__all__ = [
    "LossFunction",
    "build_loss",
    "inverse_frequency_weights",
    "resolve_weights",
]


def build_loss(config: Loss, activation: Activation, num_channels: int) -> LossFunction:
    """Return a function of logits (N,C,*) and target that gives the loss, a scalar.

    The target holds class ids (N,*) int64, or continuous values (N,C,*) float for BCE, MSE, Dice
    and Jaccard. `linear` is for MSE on the raw output.

    Raises:
        ConfigError: the loss, the activation and the number of channels do not go together.
    """
    _check(config, activation, num_channels)
    term = _term(config, activation)
    weights = _class_weights(config, num_channels)

    @cache  # one copy to each device, not one (with a sync) at every step
    def weight_on(device: torch.device, dtype: torch.dtype) -> Tensor | None:
        return None if weights is None else torch.tensor(weights, device=device, dtype=dtype)

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            if logits.dtype in (torch.float16, torch.bfloat16):
                logits = logits.float()
            weight = weight_on(logits.device, logits.dtype)
            return term(make_batch(logits, target, config.ignore_index, weight))

    return loss


def _term(config: Loss, activation: Activation) -> Term:
    terms: dict[str, Term] = {
        "NLL": partial(nll, activation=activation),
        "BCE": partial(bce, activation=activation),
        "MSE": partial(mse, activation=activation),
        "Dice": partial(dice, activation=activation, eps=config.eps),
        "Jaccard": partial(jaccard, activation=activation, eps=config.eps),
        "Focal": partial(focal, activation=activation, gamma=config.gamma),
        "Lovasz": partial(lovasz, activation=activation),
    }
    # What is none of ours is a plug-in: the config has looked for it.
    return terms.get(config.function) or plugin_term(config, activation)


def _check(config: Loss, activation: Activation, num_channels: int) -> None:
    if activation == "linear" and config.function != "MSE":
        raise ConfigError(
            f"loss.function: {config.function} needs probabilities, and the network's output is "
            "linear; set loss.source to sigmoid or softmax, or use MSE"
        )
    if num_channels == 1 and activation in ("softmax", "log_softmax"):
        raise ConfigError(
            f"loss.source: {activation} over a single channel is 1 everywhere; give the network "
            "a sigmoid, or one channel per class"
        )


def _class_weights(config: Loss, num_channels: int) -> tuple[float, ...] | None:
    weights = _checked_weights(config, num_channels)
    ignored = config.ignore_index
    if ignored is None or not 0 <= ignored < num_channels or num_channels == 1:
        return weights
    if config.function not in ("Dice", "Jaccard"):
        return weights
    # An ignored class has no pixels left: its Dice would be 0 whatever the network does.
    weights = weights or (1.0,) * num_channels
    return tuple(0.0 if c == ignored else weight for c, weight in enumerate(weights))


def _checked_weights(config: Loss, num_channels: int) -> tuple[float, ...] | None:
    weights = config.weight
    if isinstance(weights, str):
        raise ValueError(f"{weights}: resolve_weights() makes numbers of it, which come first")
    if weights is None or (num_channels == 1 and len(weights) == 1):
        return None  # the weight of the only class cancels
    expected = max(2, num_channels)
    if len(weights) != expected:
        classes = "background and foreground" if num_channels == 1 else "one for each channel"
        raise ConfigError(
            f"loss.weight: expected {expected} numbers ({classes}), received {len(weights)}"
        )
    if not any(weights):
        raise ConfigError("loss.weight: expected at least one weight above 0")
    return weights
