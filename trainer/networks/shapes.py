"""Shapes, parameter counts and the check of a network against the data, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.errors import NetworkError
from trainer.networks.graph import Graph, Node
from trainer.networks.layers.elementwise import Identity, Input, Softmax
from trainer.networks.spec import LINEAR, MAX_ELEMENTS, Shape, ShapeError, Weight, describe

MAX_PARAMETERS = 4 * 10**9  # 16 GB of float32: beyond what one process can train


@dataclass(frozen=True)
class NetworkFacts:
    """What is worth knowing of a network before it is built.

    Attributes:
        num_operations: calls of layers, and activations that are fused into a layer of another
            kind; None of a plug-in's network, which has no graph.
    """

    name: str
    input_shape: Shape
    output_shape: Shape
    num_layers: int
    num_trainable: int
    num_non_trainable: int
    final_activation: str
    num_operations: int | None = None


def infer_shapes(graph: Graph, input_shape: Shape) -> dict[str, Shape]:
    """Return each node's output shape (channels last, without batch).

    Raises NetworkError with the layer, the shapes, and the nearest sizes that would fit.
    """
    _check_input(graph, input_shape)
    try:
        return _run(graph, input_shape)
    except _LayerShapeError as error:
        remedy = _fitting_sizes(graph, input_shape)
        raise NetworkError(f"{error}{remedy}") from None


class _LayerShapeError(Exception):
    pass


def _where(graph: Graph, node: Node) -> str:
    return f"{graph.source}: layer '{node.name}' ({node.layer.kind})"


def _check_input(graph: Graph, input_shape: Shape) -> None:
    wanted = graph.input_shape
    if len(input_shape) != len(wanted):
        raise NetworkError(
            f"{graph.source}: layer '{graph.input}' (InputLayer): the data has the shape "
            f"{describe(input_shape)}, the network takes {describe(wanted)}"
        )
    if wanted[-1] is not None and wanted[-1] != input_shape[-1]:
        raise NetworkError(
            f"{graph.source}: layer '{graph.input}' (InputLayer): the network takes {wanted[-1]} "
            f"channels, the data has {input_shape[-1]}; set the data to "
            f"{'grayscale' if wanted[-1] == 1 else 'colour'}, or the last number of "
            f"batch_input_shape to {input_shape[-1]}"
        )
    if min(input_shape) < 1:
        raise NetworkError(f"{graph.source}: the input shape {describe(input_shape)} is empty")


def _run(graph: Graph, input_shape: Shape) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for node in graph.nodes:
        if isinstance(node.layer.spec, Input):
            shapes[node.name] = input_shape
            continue
        inputs = [shapes[name] for name in node.inputs]
        try:
            shape = node.layer.spec.output_shape(*inputs)
        except ShapeError as error:
            names = ", ".join(f"'{name}'" for name in node.inputs[:4])
            raise _LayerShapeError(f"{_where(graph, node)}: {error} (from {names})") from None
        if math.prod(shape) > MAX_ELEMENTS:
            raise NetworkError(
                f"{_where(graph, node)}: its output {describe(shape)} would have "
                f"{math.prod(shape):.3g} numbers for each image; at most {MAX_ELEMENTS:.3g} fit"
            )
        shapes[node.name] = shape
    return shapes


def _fits(graph: Graph, shape: Shape) -> bool:
    try:
        _run(graph, shape)
    except (_LayerShapeError, NetworkError):
        return False
    return True


def _fitting_sizes(graph: Graph, input_shape: Shape) -> str:
    """Name the nearest sizes that would fit, if multiples of a power of two do."""
    if len(graph.nodes) > 3000:  # each try costs a pass over the graph
        return ""
    spatial, channels = input_shape[:-1], input_shape[-1]
    for multiple in (2, 4, 8, 16, 32, 64, 128):
        up = tuple(math.ceil(n / multiple) * multiple for n in spatial)
        down = tuple(n // multiple * multiple for n in spatial)
        sizes = [size for size in dict.fromkeys((down, up)) if min(size) > 0 and size != spatial]
        if sizes and all(_fits(graph, (*size, channels)) for size in sizes):
            listed = " and ".join("×".join(map(str, size)) for size in sizes)
            return (
                f"; the nearest input sizes that fit: {listed} (multiples of {multiple}); "
                "resize the images"
            )
    return ""


def layer_weights(graph: Graph, shapes: dict[str, Shape]) -> dict[str, tuple[Weight, ...]]:
    """Return each layer's weights by its name; calls of a shared layer must agree on them."""
    weights: dict[str, tuple[Weight, ...]] = {}
    for node in graph.nodes:
        if isinstance(node.layer.spec, Input):
            continue
        found = node.layer.spec.weights(*(shapes[name] for name in node.inputs))
        known = weights.setdefault(node.layer.name, found)
        if known != found:
            raise NetworkError(
                f"{_where(graph, node)}: is shared by calls that need different weights: "
                f"{[w.shape for w in known]} and {[w.shape for w in found]}"
            )
    return weights


def count_parameters(graph: Graph, input_shape: Shape) -> tuple[int, int]:
    """Return the numbers of trainable and other parameters, as Keras counts them."""
    return _count(graph, layer_weights(graph, infer_shapes(graph, input_shape)))


def _count(graph: Graph, weights: dict[str, tuple[Weight, ...]]) -> tuple[int, int]:
    trainable = frozen = 0
    for layer in graph.layers():
        for weight in weights.get(layer.name, ()):
            if weight.trainable and layer.trainable:
                trainable += weight.size
            else:
                frozen += weight.size
    total = trainable + frozen
    if total > MAX_PARAMETERS:
        largest = max(graph.layers(), key=lambda x: _size(weights.get(x.name, ())))
        raise NetworkError(
            f"{graph.source}: layer '{largest.name}' ({largest.kind}): has "
            f"{_size(weights[largest.name]):.3g} parameters, the network {total:.3g}; "
            f"at most {MAX_PARAMETERS:.3g} can be trained"
        )
    return trainable, frozen


def _size(weights: tuple[Weight, ...]) -> int:
    return sum(weight.size for weight in weights)


def check_network(graph: Graph, input_shape: Shape) -> NetworkFacts:
    """Check a network against the data's shape (H, W, C) and count its parameters."""
    shapes = infer_shapes(graph, input_shape)
    weights = layer_weights(graph, shapes)
    trainable, frozen = _count(graph, weights)
    _check_fixed_weights(graph, input_shape, weights)
    return NetworkFacts(
        name=graph.name,
        input_shape=input_shape,
        output_shape=shapes[graph.output],
        num_layers=graph.num_layers,
        num_trainable=trainable,
        num_non_trainable=frozen,
        final_activation=final_activation(graph),
        num_operations=_num_operations(graph),
    )


def _num_operations(graph: Graph) -> int:
    fused = (
        node.layer.spec.activation != LINEAR
        and not isinstance(node.layer.spec, Identity | Softmax)
        for node in graph.nodes
    )
    return len(graph.nodes) + sum(fused)


def _check_fixed_weights(
    graph: Graph, input_shape: Shape, weights: dict[str, tuple[Weight, ...]]
) -> None:
    """Refuse another size than the file's where weights depend on it (Flatten, then Dense)."""
    own = tuple(
        n if fixed is None else fixed
        for n, fixed in zip(input_shape, graph.input_shape, strict=True)
    )
    if own == input_shape:
        return
    try:
        expected = layer_weights(graph, _run(graph, own))
    except (_LayerShapeError, NetworkError):
        return  # the file's own size does not work; the data's does
    for name, found in weights.items():
        if found != expected[name]:
            size = "×".join(map(str, own[:-1]))
            raise NetworkError(
                f"{graph.source}: layer '{name}': its weights fit only inputs of {size}, the "
                f"data has {describe(input_shape)}; resize the images to {list(own[:-1])}"
            )


def last_step(graph: Graph) -> Node:
    """Return the node with the last activation: identities behind it do not count."""
    nodes = {node.name: node for node in graph.nodes}
    node = nodes[graph.output]
    while (
        isinstance(node.layer.spec, Identity)
        and node.layer.spec.activation.name == "linear"
        and nodes[node.inputs[0]].layer.kind != "InputLayer"
    ):
        node = nodes[node.inputs[0]]
    return node


def final_activation(graph: Graph) -> str:
    """Name the function that the output went through last, 'linear' if none."""
    return last_step(graph).layer.spec.activation.name
