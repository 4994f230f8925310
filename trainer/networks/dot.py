"""Draws a network in the DOT language, for `dot -Tsvg network.dot`."""

from __future__ import annotations

from trainer.networks.graph import Graph
from trainer.networks.shapes import infer_shapes
from trainer.networks.spec import Shape, describe


def to_dot(graph: Graph, input_shape: Shape) -> str:
    """Return the graph: a box for each call of a layer, with the shape of what it gives.

    Raises:
        NetworkError: the input does not fit the network.
    """
    shapes = infer_shapes(graph, input_shape)
    # Names may hold anything, so they are labels only.
    numbers = {node.name: f"n{index}" for index, node in enumerate(graph.nodes)}
    lines = [f"digraph {_quoted(graph.name)} {{", "  node [shape=box];"]
    for node in graph.nodes:
        label = f"{node.name}\n{node.layer.kind}\n{describe(shapes[node.name])}"
        if not node.layer.trainable:
            label += "\nfrozen"
        lines.append(f"  {numbers[node.name]} [label={_quoted(label)}];")
    for node in graph.nodes:
        lines += [f"  {numbers[name]} -> {numbers[node.name]};" for name in node.inputs]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
