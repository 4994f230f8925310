"""Which layers come first, and which make up the encoder: weights are judged by that."""

from __future__ import annotations

import math

from trainer.networks.graph import Graph
from trainer.networks.layers.convolution import Dense, Window
from trainer.networks.layers.elementwise import Input
from trainer.networks.spec import Shape


def first_layers(graph: Graph) -> set[str]:
    """Name the layers that see the image's own channels: up to the first that mixes them."""
    names: set[str] = set()
    seeing = {graph.input}
    for node in graph.nodes:
        if isinstance(node.layer.spec, Input) or not seeing.issuperset(node.inputs):
            continue
        names.add(node.layer.name)
        if not isinstance(node.layer.spec, Window | Dense) or node.layer.kind.endswith(
            "Pooling2D"
        ):
            seeing.add(node.name)
    return names


def encoder_layers(graph: Graph, shapes: dict[str, Shape]) -> set[str]:
    """Name the layers up to the smallest image; none where no image becomes smaller."""
    images = {n.name: math.prod(shapes[n.name][:-1]) for n in graph.nodes}
    deepest = min(
        (n for n in graph.nodes if len(shapes[n.name]) > 2 and images[n.name] > 1),
        key=lambda n: images[n.name],
        default=None,
    )
    if deepest is None or images[deepest.name] == images[graph.input]:
        return set()
    smallest = [n for n in graph.nodes if images[n.name] == images[deepest.name]]
    nodes = {node.name: node for node in graph.nodes}
    stack, seen = [n.name for n in smallest], {n.name for n in smallest}
    while stack:
        for name in nodes[stack.pop()].inputs:
            if name not in seen:
                seen.add(name)
                stack.append(name)
    return {nodes[name].layer.name for name in seen}
