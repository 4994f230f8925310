"""Operations that networks hold beside layers: `x + 3.0`, `x * y`, `relu(x)`.

Keras 3 writes them with a module `keras.src.ops…`, Keras 2 as TFOpLambda. The four arithmetic
ones, concatenation and the plain activations are read; each becomes a layer of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.errors import NetworkError
from trainer.networks.config import show
from trainer.networks.references import Reference, history, keras2_reference

# name of the operation (Keras 3's class, or TensorFlow's function) -> ours
ARITHMETIC = {
    "Add": "add",
    "Subtract": "subtract",
    "Multiply": "multiply",
    "TrueDivide": "divide",
    "Divide": "divide",
    "math.add": "add",
    "__operators__.add": "add",
    "math.subtract": "subtract",
    "math.multiply": "multiply",
    "math.truediv": "divide",
    "math.divide": "divide",
}
ACTIVATIONS = {
    "Relu": "relu",
    "Relu6": "relu6",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Softplus": "softplus",
    "Tanh": "tanh",
    "nn.relu": "relu",
    "nn.relu6": "relu6",
    "nn.sigmoid": "sigmoid",
    "math.sigmoid": "sigmoid",
    "nn.silu": "silu",
    "nn.swish": "silu",
    "nn.softplus": "softplus",
    "math.tanh": "tanh",
}
CONCATENATIONS = ("Concatenate", "concat")

Operand = Reference | float
Translated = tuple[str, dict[str, Any], list[list[Reference]]]


def is_operation(obj: Mapping[str, Any]) -> bool:
    """Tell an operation from a layer: `Add` is the name of both."""
    module = obj.get("module")
    if isinstance(module, str) and module.startswith(("keras.src.ops", "keras.ops")):
        return True
    return obj.get("class_name") == "TFOpLambda"


def read_operation(obj: Mapping[str, Any], config: Mapping[str, Any], where: str) -> Translated:
    """Return class, settings and calls of the layer that computes an operation."""
    name = config.get("function") if obj.get("class_name") == "TFOpLambda" else obj["class_name"]
    nodes = obj.get("inbound_nodes")
    if not isinstance(nodes, list) or len(nodes) != 1:
        raise NetworkError(f"{where}: inbound_nodes: expected one call, received {show(nodes)}")
    node, base = nodes[0], {"name": config.get("name")}
    if name in CONCATENATIONS:
        operands, axis = _concatenated(node, config, where)
        return "Concatenate", {**base, "axis": axis}, [operands]
    operands_or_numbers = _operands(node, where)
    references = [x for x in operands_or_numbers if isinstance(x, Reference)]
    if name in ACTIVATIONS and len(operands_or_numbers) == len(references) == 1:
        return "Activation", {**base, "activation": ACTIVATIONS[name]}, [references]
    if name not in ARITHMETIC or len(operands_or_numbers) != 2 or not references:
        valid = sorted({*ARITHMETIC.values(), *ACTIVATIONS.values(), "concatenate"})
        raise NetworkError(
            f"{where}: the operation {show(name)} is not supported as it stands; expected one of "
            f"{', '.join(valid)} on one or two tensors, or a layer instead"
        )
    if len(references) == 2:
        return ARITHMETIC[name].capitalize(), base, [references]
    left, right = (x if isinstance(x, float) else None for x in operands_or_numbers)
    settings = {**base, "operation": ARITHMETIC[name], "left": left, "right": right}
    return "Arithmetic", settings, [references]


def _operands(node: object, where: str) -> list[Operand]:
    if isinstance(node, dict):
        args = node.get("args")
        values = [*args] if isinstance(args, list) else []
        kwargs = node.get("kwargs")
        if isinstance(kwargs, dict):
            values += [value for value in kwargs.values() if value is not None]
        return [_operand(value, history(value), where) for value in values]
    if isinstance(node, list) and len(node) == 1 and isinstance(node[0], list):
        node = node[0]
    if not isinstance(node, list) or len(node) < 3:
        raise NetworkError(f"{where}: inbound_nodes: expected a call, received {show(node)}")
    constant = node[0] == "_CONSTANT_VALUE"
    found = [_operand(node[2], None, where) if constant else keras2_reference(node[:3], where)]
    kwargs = node[3] if len(node) > 3 and isinstance(node[3], dict) else {}
    for key, value in kwargs.items():
        if key not in ("name",) and value is not None:
            found.append(_operand(value, value if isinstance(value, list) else None, where))
    return found


def _operand(value: object, tensor: list[Any] | None, where: str) -> Operand:
    if tensor:
        return keras2_reference(tensor, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise NetworkError(
            f"{where}: inbound_nodes: expected a tensor or a number, received {show(value)}"
        )
    return float(value)


def _concatenated(
    node: object, config: Mapping[str, Any], where: str
) -> tuple[list[Reference], object]:
    if isinstance(node, dict):
        args = node.get("args")
        tensors = args[0] if isinstance(args, list) and args else None
        axis = config.get("axis", -1)
        found = [history(x) for x in tensors] if isinstance(tensors, list) else []
    else:
        found = [*node] if isinstance(node, list) else []
        last = found[0][3] if found and isinstance(found[0], list) and len(found[0]) > 3 else {}
        axis = last.get("axis", -1) if isinstance(last, dict) else -1
        found = [x[:3] if isinstance(x, list) else None for x in found]
    if not found or not all(found):
        raise NetworkError(f"{where}: inbound_nodes: expected tensors, received {show(node)}")
    return [keras2_reference(x, where) for x in found], axis
