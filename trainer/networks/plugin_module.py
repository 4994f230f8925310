"""Builds a plug-in's network: what its function returns, checked on one empty image."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import NetworkError, TrainerError
from trainer.networks.network_module import NetworkModule
from trainer.networks.plugin import PluginNetwork, unknown_option
from trainer.networks.shapes import NetworkFacts
from trainer.networks.spec import Shape, describe
from trainer.plugins import NETWORKS_GROUP, describe_plugin, load_plugin
from trainer.plugins import describe as describe_error


class PluginModule(NetworkModule):
    """A network of the user's own, which gives logits.

    Its `state_dict` is that of the module which the plug-in made, so that checkpoints can be
    loaded into one without us.
    """

    def __init__(self, own: nn.Module, where: str) -> None:
        super().__init__()
        self.own = own
        self.where = where

    def logits(self, x: Tensor) -> Tensor:
        """Return the output; x is (N, C, H, W)."""
        y = self.own(x)
        if not isinstance(y, Tensor):  # of a network that gives more while it is trained
            raise NetworkError(
                f"{self.where}: expected a tensor for an output, received {type(y).__name__}; "
                "have its function return a module that gives one"
            )
        return y

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state of the user's module."""
        return self.own.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load the state of the user's module."""
        return self.own.load_state_dict(*args, **kwargs)


def build_plugin(network: PluginNetwork, input_shape: Shape) -> tuple[PluginModule, NetworkFacts]:
    """Build a plug-in's network, and try it on an empty image of `input_shape`, (H, W, C).

    Raises:
        ConfigError: the plug-in cannot be loaded.
        NetworkError: it is not installed, does not take the options, fails, or gives something
            else than it should.
    """
    network.check_installed()
    _check_channels(network, input_shape)
    where = f"{network.source}: plug-in {describe_plugin(NETWORKS_GROUP, network.name)}"
    own = _call(network, where)
    module = PluginModule(own, where)
    output_shape = _try(module, network, input_shape)
    for key, value in own.state_dict().items():
        if not isinstance(value, Tensor):
            raise NetworkError(
                f"{where}: its state holds {key!r}, a {type(value).__name__}; checkpoints hold "
                "tensors only"
            )
    trainable = sum(p.numel() for p in own.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in own.parameters() if not p.requires_grad)
    buffers = sum(b.numel() for b in own.buffers() if b.is_floating_point())
    facts = NetworkFacts(
        name=network.title,
        input_shape=input_shape,
        output_shape=output_shape,
        num_layers=sum(1 for layer in own.modules() if not any(True for _ in layer.children())),
        num_trainable=trainable,
        num_non_trainable=frozen + buffers,
        final_activation="linear",
    )
    return module, facts


def check_input(module: PluginModule, network: PluginNetwork, input_shape: Shape) -> None:
    """Try a network that is built on an empty image of another shape, (H, W, C).

    Raises:
        NetworkError: it fails, or gives something else than it should.
    """
    _check_channels(network, input_shape)
    _try(module, network, input_shape)


def _check_channels(network: PluginNetwork, input_shape: Shape) -> None:
    wanted = network.input_shape[-1]
    if input_shape[-1] != wanted:
        raise NetworkError(
            f"{network.source}: the network takes {wanted} channels, the data has "
            f"{input_shape[-1]}; set the data to {'grayscale' if wanted == 1 else 'colour'}"
        )


def _call(network: PluginNetwork, where: str) -> nn.Module:
    function = load_plugin(NETWORKS_GROUP, network.name)
    _check_signature(network, function, where)
    try:
        own = function(network.input_shape, network.num_outputs, **network.options)
    except TrainerError:
        raise
    except Exception as error:
        raise NetworkError(f"{where}: {describe_error(error)}") from error
    if not isinstance(own, nn.Module):
        raise NetworkError(f"{where}: expected a torch.nn.Module, received {type(own).__name__}")
    return own


def _check_signature(network: PluginNetwork, function: Any, where: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of something compiled; the call will tell
        return
    try:
        signature.bind(network.input_shape, network.num_outputs, **network.options)
    except TypeError as error:
        named = {
            parameter.name: parameter
            for parameter in list(signature.parameters.values())[2:]
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        }
        for key in network.options:
            if key not in named:
                raise unknown_option(network, key, named) from None
        raise NetworkError(
            f"{where}: expected a function of the input's shape and the number of outputs "
            f"({error})"
        ) from None


def _try(module: PluginModule, network: PluginNetwork, input_shape: Shape) -> Shape:
    """Return the shape of the output, channels last, for one image."""
    where = module.where
    image = torch.zeros(1, input_shape[-1], *input_shape[:-1])
    module.eval()
    try:
        # What the weights of lazy layers draw is repeated by the seed; nothing else is drawn.
        with torch.no_grad():
            y = module.logits(image)
    except TrainerError:
        raise
    except Exception as error:
        raise NetworkError(
            f"{where}: fails on an input of {describe(input_shape)}: {describe_error(error)}"
        ) from error
    finally:
        module.train()
    if y.ndim < 2 or tuple(y.shape[:2]) != (1, network.num_outputs) or not math.prod(y.shape):
        raise NetworkError(
            f"{where}: expected an output of {network.num_outputs} channels, (1, "
            f"{network.num_outputs}, …) for one image, received {tuple(y.shape)}"
        )
    return (*y.shape[2:], network.num_outputs)
