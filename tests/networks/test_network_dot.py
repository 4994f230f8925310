"""The network's graph in DOT, read back by pydot."""

from __future__ import annotations

import pydot
import pytest

from trainer.networks import network_json, parse_network
from trainer.networks.dot import to_dot

# pydot calls pyparsing by names that are going out of use.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pydot.dot_parser")

HOSTILE = 'say "hi" \\ 100% {a|b} -> ß;'


def read(text: str) -> tuple[dict[str, list[str]], set[tuple[str, str]]]:
    """Return each box's lines by its id, and the arrows."""
    (graph,) = pydot.graph_from_dot_data(text)
    boxes = {
        node.get_name(): node.get_label()[1:-1].split("\\n")
        for node in graph.get_nodes()
        if node.get_name() != "node"
    }
    return boxes, {(edge.get_source(), edge.get_destination()) for edge in graph.get_edges()}


def test_graph_has_each_layer_with_its_shape_and_each_connection() -> None:
    graph = parse_network(network_json("unet:width=4,depth=2", (32, 48, 3), 1), "unet")
    boxes, arrows = read(to_dot(graph, (32, 48, 3)))
    assert [lines[:2] for lines in boxes.values()] == [
        [node.name, node.layer.kind] for node in graph.nodes
    ]
    assert next(iter(boxes.values()))[2] == "(N, 32, 48, 3)"
    assert list(boxes.values())[-1][2] == "(N, 32, 48, 1)"
    names = {key: lines[0] for key, lines in boxes.items()}
    assert {(names[source], names[target]) for source, target in arrows} == {
        (source, node.name) for node in graph.nodes for source in node.inputs
    }
    assert any(sum(target == key for _, target in arrows) == 2 for key in boxes), "a skip"


def test_names_may_hold_anything() -> None:
    layer = {
        "class_name": "Conv2D",
        "config": {"name": HOSTILE, "filters": 1, "kernel_size": [1, 1], "trainable": False}
        | {"batch_input_shape": [None, 8, 8, 1]},
    }
    boxes, _ = read(to_dot(parse_network([layer], "layers"), (8, 8, 1)))
    *_, (name, kind, _, frozen) = boxes.values()
    assert name.replace('\\"', '"').replace("\\\\", "\\") == HOSTILE
    assert (kind, frozen) == ("Conv2D", "frozen")
