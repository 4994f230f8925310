"""Walks the JSON of Keras 2 and 3: layers, their calls, and what each call takes.

The forms differ much between versions: `inbound_nodes` as nested lists (Keras 2), as objects
with `__keras_tensor__` (Keras 3), or absent, which means "the previous layer"; `Sequential`
as an object or as a bare list; models as layers of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import NetworkError
from trainer.networks.config import show
from trainer.networks.keras_ops import is_operation, read_operation
from trainer.networks.names import numbered, snake_case
from trainer.networks.references import Reference, history, keras2_reference, refuse_tensors

MAX_LAYERS = 20_000
MAX_REFERENCES = 10 * MAX_LAYERS
MAX_NESTING = 8
MODELS = ("Model", "Functional", "Sequential")


@dataclass
class RawLayer:
    """A layer as the file has it; `block` is set for a model used as a layer."""

    name: str
    kind: str
    config: Mapping[str, Any]
    trainable: bool
    calls: list[list[Reference]]
    block: Block | None = None
    call_offset: int = 0


@dataclass
class Block:
    """A model as the file has it."""

    name: str
    layers: dict[str, RawLayer] = field(default_factory=dict)
    inputs: list[Reference] = field(default_factory=list)
    outputs: list[Reference] = field(default_factory=list)
    sequential: bool = False


def read_block(obj: object, source: str, depth: int = 0) -> Block:
    """Read a model: a Keras object, `{layers: […]}`, or a list of layers."""
    if depth > MAX_NESTING:
        raise NetworkError(f"{source}: models are nested more than {MAX_NESTING} deep")
    if isinstance(obj, list):
        return _read_list(obj, "network", source, depth)
    if not isinstance(obj, dict):
        raise NetworkError(
            f"{source}: expected a network as Keras's to_json() writes it, or a list of layers; "
            f"received {show(obj)}"
        )
    kind = obj.get("class_name", "Functional")
    if kind not in MODELS:
        raise NetworkError(
            f"{source}: class_name: expected one of {', '.join(MODELS)}; received {show(kind)} "
            "(a subclass of Model has no layers in its JSON; write it with the functional API)"
        )
    config = obj.get("config", obj)
    if kind == "Sequential" and isinstance(config, list):  # Keras before 2.2.3
        return _read_list(config, "sequential", source, depth)
    if not isinstance(config, dict):
        raise NetworkError(f"{source}: config: expected an object, received {show(config)}")
    layers = config.get("layers")
    if not isinstance(layers, list):
        raise NetworkError(f"{source}: layers: expected a list of layers, received {show(layers)}")
    name = config.get("name")
    if kind == "Sequential" and config.get("build_input_shape") is not None:
        layers = _with_built_shape(layers, config["build_input_shape"])
    block = _read_list(layers, name if isinstance(name, str) else kind.lower(), source, depth)
    block.sequential = kind == "Sequential"
    if kind != "Sequential":
        if config.get("input_layers"):
            block.inputs = _end_points(config["input_layers"], f"{source}: input_layers")
        if config.get("output_layers"):
            block.outputs = _end_points(config["output_layers"], f"{source}: output_layers")
    return block


def _with_built_shape(layers: list[Any], shape: object) -> list[Any]:
    """Give the first layer the shape that Keras 3 notes beside a Sequential's layers."""
    first = layers[0] if layers else None
    if not isinstance(first, dict) or first.get("class_name") == "InputLayer":
        return layers
    config = first.get("config")
    if not isinstance(config, dict):
        return layers
    return [{**first, "config": {"batch_input_shape": shape, **config}}, *layers[1:]]


def _read_list(layers: list[Any], name: str, source: str, depth: int) -> Block:
    if not layers:
        raise NetworkError(f"{source}: layers: expected at least one layer, received none")
    if len(layers) > MAX_LAYERS:
        raise NetworkError(f"{source}: {len(layers)} layers; at most {MAX_LAYERS} are read")
    block = Block(name)
    taken = dict.fromkeys((_given_name(layer) for layer in layers), 0)
    previous: str | None = None
    for position, obj in enumerate(layers):
        layer = _read_layer(obj, position, source, depth, taken)
        if layer.name in block.layers:
            raise NetworkError(f"{source}: layer '{layer.name}': two layers have this name")
        if previous is None and layer.kind != "InputLayer" and not layer.calls:
            previous = _implied_input(block, layer, source)
        absent = not isinstance(obj.get("inbound_nodes"), list)
        if absent and layer.kind != "InputLayer" and previous is not None:
            layer.calls = [[Reference(previous)]]
        block.layers[layer.name] = layer
        previous = layer.name
    block.inputs = [Reference(x.name) for x in block.layers.values() if x.kind == "InputLayer"]
    num_taken = sum(len(call) + 1 for x in block.layers.values() for call in x.calls)
    if num_taken > MAX_REFERENCES:
        raise NetworkError(
            f"{source}: its layers are called with more than {MAX_REFERENCES} tensors"
        )
    used = {ref.layer for x in block.layers.values() for call in x.calls for ref in call}
    ends = [name for name in block.layers if name not in used]
    block.outputs = [Reference(end) for end in ends]
    return block


def _implied_input(block: Block, layer: RawLayer, source: str) -> str:
    """Add the input layer that a Sequential leaves out, from its first layer's shape."""
    config: Mapping[str, Any] = layer.config
    inner = layer.block
    while inner is not None:  # a nested model in front: its own input tells the shape
        first = next(iter(inner.layers.values()))
        config, inner = first.config, first.block
    keys = ("batch_input_shape", "batch_shape", "input_shape")
    shape = next((config[key] for key in keys if config.get(key) is not None), None)
    if not isinstance(shape, list):
        raise NetworkError(
            f"{source}: layer '{layer.name}': nothing says the input's shape; begin with an "
            "InputLayer, or give the first layer a batch_input_shape [null, H, W, C]"
        )
    name = f"{layer.name}_input"
    while name in block.layers:
        name += "_"
    key = "input_shape" if "input_shape" in config else "batch_input_shape"
    block.layers[name] = RawLayer(name, "InputLayer", {key: shape}, True, [])
    return name


def _given_name(obj: object) -> str | None:
    if not isinstance(obj, dict):
        return None
    config = obj.get("config")
    name = obj.get("name") or (config.get("name") if isinstance(config, dict) else None)
    return name if isinstance(name, str) and name else None


def _new_name(kind: str, taken: dict[str | None, int]) -> str:
    """Return the name that Keras gives a layer without one: conv2d, conv2d_1, …

    Args:
        kind: its class.
        taken: the names that are; of a class, the number that is looked at next.
    """
    base = f"{snake_case(kind)}\n"  # no name has a line break
    number = taken.get(base, 0)
    while numbered(snake_case(kind), number) in taken:
        number += 1
    name = numbered(snake_case(kind), number)
    taken[name], taken[base] = 0, number + 1
    return name


def _read_layer(
    obj: object, position: int, source: str, depth: int, taken: dict[str | None, int]
) -> RawLayer:
    if not isinstance(obj, dict):
        raise NetworkError(
            f"{source}: layers[{position}]: expected an object, received {show(obj)}"
        )
    kind = obj.get("class_name")
    if not isinstance(kind, str) or not kind.isprintable() or len(kind) > 100:
        raise NetworkError(
            f"{source}: layers[{position}]: class_name: expected a layer's class, "
            f"received {show(kind)}"
        )
    kind = kind.rsplit(">", maxsplit=1)[-1]  # 'Addons>InstanceNormalization'
    name = _given_name(obj) or _new_name(kind, taken)
    if len(name) > 500 or not name.isprintable():
        raise NetworkError(
            f"{source}: layers[{position}]: name: expected up to 500 printable characters, "
            f"received {show(name)}"
        )
    where = f"{source}: layer '{name}'"
    config = obj.get("config", {})
    block = None
    if kind in MODELS:
        block = read_block(obj, where, depth + 1)
        config = config if isinstance(config, dict) else {}
    if not isinstance(config, dict):
        raise NetworkError(f"{where}: config: expected an object, received {show(config)}")
    trainable = config.get("trainable", True)
    if not isinstance(trainable, bool) and trainable not in (0, 1, None):
        raise NetworkError(
            f"{where}: trainable: expected true or false, received {show(trainable)}"
        )
    if is_operation(obj):
        kind, config, calls = read_operation(obj, config, where)
    else:
        calls = _read_calls(obj.get("inbound_nodes"), f"{where}: inbound_nodes")
    return RawLayer(name, kind, config, trainable in (True, None), calls, block)


def _read_calls(nodes: object, where: str) -> list[list[Reference]]:
    if nodes is None:
        return []
    if not isinstance(nodes, list):
        raise NetworkError(f"{where}: expected a list, received {show(nodes)}")
    if nodes and all(isinstance(node, str) for node in nodes):  # inline form: ["a", "b"]
        return [[keras2_reference(node, where) for node in nodes]]
    calls = []
    for node in nodes:
        if isinstance(node, dict):
            calls.append(_keras3_call(node, where))
        elif isinstance(node, list):
            calls.append(_keras2_call(node, where))
        else:
            raise NetworkError(f"{where}: expected a call of the layer, received {show(node)}")
    return calls


def _keras2_call(node: list[Any], where: str) -> list[Reference]:
    if node and isinstance(node[0], str) and any(not isinstance(x, str) for x in node):
        node = [node]  # one tensor without the list around it
    return [keras2_reference(item, where) for item in node]


def _keras3_call(node: dict[str, Any], where: str) -> list[Reference]:
    args = node.get("args")
    if not isinstance(args, list):
        raise NetworkError(f"{where}: args: expected a list, received {show(args)}")
    kwargs = node.get("kwargs") or {}
    if isinstance(kwargs, dict):
        refuse_tensors(kwargs, where)
    if not args:
        return []
    tensors = args[0] if isinstance(args[0], list) else [args[0]]
    if any(arg is not None and not isinstance(arg, bool) for arg in args[1:]):
        raise NetworkError(f"{where}: args: expected tensors only, received {show(args[1:])}")
    references = []
    for tensor in tensors:
        found = history(tensor)
        if not found:
            raise NetworkError(f"{where}: args: expected tensors, received {show(tensor)}")
        references.append(keras2_reference(found, where))
    return references


def _end_points(value: object, where: str) -> list[Reference]:
    if isinstance(value, list) and value and isinstance(value[0], str):
        value = [value]
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        raise NetworkError(f"{where}: expected a list, received {show(value)}")
    return [keras2_reference(item, where) for item in value]
