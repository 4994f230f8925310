"""The parsed network: layers, and the calls of them in an order that can be run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.networks.spec import LayerSpec


@dataclass(frozen=True)
class Layer:
    """A layer: its path of names (more than one within nested models), class and settings."""

    path: tuple[str, ...]
    kind: str
    spec: LayerSpec
    trainable: bool

    @property
    def name(self) -> str:
        return "/".join(self.path)


@dataclass(frozen=True)
class Node:
    """One call of a layer; a layer that is called twice has two nodes and one set of weights."""

    name: str
    layer: Layer
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """A network with one input and one output, its nodes in topological order."""

    name: str
    source: str
    nodes: tuple[Node, ...]
    input: str
    output: str
    input_shape: tuple[int | None, ...]  # as the file has it, channels last, without batch
    notes: tuple[str, ...] = ()
    listing: tuple[tuple[tuple[str, ...], str], ...] = ()  # (path, class) in Keras's order

    def layers(self) -> Iterator[Layer]:
        """Yield each layer once, in the order of its first call."""
        seen: set[str] = set()
        for node in self.nodes:
            if node.layer.name not in seen:
                seen.add(node.layer.name)
                yield node.layer

    @property
    def num_layers(self) -> int:
        return sum(1 for _ in self.layers())
