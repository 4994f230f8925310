"""Keras networks, read and checked without torch; `module.py` builds, `weights.py` fills them.

JSON -> keras_json.py (its forms) -> parse.py (a Graph) -> shapes.py (facts) -> module.py.
"""

from trainer.networks.builtin import BUILTIN_NETWORKS, is_builtin, network_json
from trainer.networks.graph import Graph
from trainer.networks.parse import MODEL_SUFFIXES, load_network, parse_network, read_network
from trainer.networks.shapes import (
    NetworkFacts,
    check_network,
    count_parameters,
    infer_shapes,
)

__all__ = [
    "BUILTIN_NETWORKS",
    "MODEL_SUFFIXES",
    "Graph",
    "NetworkFacts",
    "check_network",
    "count_parameters",
    "infer_shapes",
    "is_builtin",
    "load_network",
    "network_json",
    "parse_network",
    "read_network",
]
