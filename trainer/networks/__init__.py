"""Keras networks, read and checked without torch; `module.py` builds, `weights.py` fills them.

JSON -> keras_json.py (its forms) -> parse.py (a Graph) -> shapes.py (facts) -> module.py; a
plug-in's: plugin.py -> plugin_module.py. blueprint.py takes either.
"""

from trainer.networks.builtin import BUILTIN_NETWORKS, is_builtin, is_named, network_json
from trainer.networks.graph import Graph
from trainer.networks.parse import (
    MODEL_SUFFIXES,
    Network,
    load_network,
    parse_any_network,
    parse_network,
    read_network,
)
from trainer.networks.plugin import PluginNetwork
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
    "Network",
    "NetworkFacts",
    "PluginNetwork",
    "check_network",
    "count_parameters",
    "infer_shapes",
    "is_builtin",
    "is_named",
    "load_network",
    "network_json",
    "parse_any_network",
    "parse_network",
    "read_network",
]
