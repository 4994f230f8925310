"""A network of either kind, checked against the data and ready to be built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainer.networks import Network, NetworkFacts, PluginNetwork, check_network
from trainer.networks.dot import to_dot
from trainer.networks.module import KerasModule
from trainer.networks.network_module import NetworkModule
from trainer.networks.plugin_module import build_plugin, check_input
from trainer.networks.spec import Shape


@dataclass(frozen=True)
class Blueprint:
    """What is known of a network before it is built.

    Attributes:
        facts: shapes and counts.
        check: refuses another input shape, (H, W, C), that the network does not take.
        build: makes the module, once.
        notes: what the reader of the log should know.
        dot: draws it; None of what cannot be drawn.
    """

    facts: NetworkFacts
    check: Callable[[Shape], object]
    build: Callable[[], NetworkModule]
    notes: tuple[str, ...]
    dot: Callable[[], str] | None


def make_blueprint(network: Network, input_shape: Shape) -> Blueprint:
    """Check a network for images of `input_shape`, (H, W, C); its weights start as it says.

    Of a plug-in's nothing can be known before it is built.

    Raises:
        NetworkError, ConfigError: it cannot be built, or does not fit the images.
    """
    if isinstance(network, PluginNetwork):
        module, facts = build_plugin(network, input_shape)
        return Blueprint(
            facts, lambda shape: check_input(module, network, shape), lambda: module, (), None
        )
    facts = check_network(network, input_shape)
    return Blueprint(
        facts,
        lambda shape: check_network(network, shape),
        lambda: KerasModule(network, input_shape),
        network.notes,
        lambda: to_dot(network, input_shape),
    )
