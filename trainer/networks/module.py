"""Builds a parsed network as a plain torch module.

The module's children carry the layers' names, so that `state_dict()` reads
`conv0.weight`, `bn_data.bias`, … It computes channels-first; shapes follow Keras's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import Tensor, nn

from trainer.networks.graph import Graph
from trainer.networks.layers.elementwise import Input
from trainer.networks.network_module import NetworkModule
from trainer.networks.shapes import (
    check_network,
    final_activation,
    infer_shapes,
    last_step,
    layer_weights,
)
from trainer.networks.spec import LINEAR, Shape
from trainer.networks.torch_layers import BUILDERS
from trainer.networks.torch_layers.functions import TensorFunction, make_function
from trainer.networks.torch_layers.normalization import RunningVariances, TorchBatchNorm

_PROBABILITIES = ("sigmoid", "softmax", "log_softmax")


@dataclass(frozen=True)
class _Step:
    module: str
    inputs: tuple[str, ...]
    output: str
    activation: TensorFunction | None
    done: tuple[str, ...]  # values that no later step needs: their memory is free to go


class KerasModule(NetworkModule):
    """A network that computes what Keras computes, on channels-first tensors."""

    def __init__(self, graph: Graph, input_shape: Shape) -> None:
        super().__init__()
        shapes = self.shapes = infer_shapes(graph, input_shape)
        self.final_activation = final_activation(graph)
        self.module_names = module_names(graph)
        self.layer_weights = layer_weights(graph, shapes)
        last = last_step(graph)
        split = self.final_activation in _PROBABILITIES
        steps: list[_Step] = []
        for node in graph.nodes:
            layer, spec = node.layer, node.layer.spec
            if isinstance(spec, Input):
                continue
            name = self.module_names[layer.name]
            if name not in self._modules:
                taken = tuple(shapes[i] for i in node.inputs)
                self.add_module(name, BUILDERS[type(spec)](spec, taken, layer.trainable))
            function = LINEAR if node is last and split else spec.activation
            steps.append(_Step(name, node.inputs, node.name, make_function(function), ()))
        self._steps = _with_lifetimes(steps, graph.output)
        self._input, self._output = graph.input, graph.output
        self._probabilities = make_function(last.layer.spec.activation) if split else None

    def running_variances(self) -> RunningVariances:
        """Return those of the BatchNormalizations that are used once."""
        uses = Counter(step.module for step in self._steps)
        layers = ((name, layer) for name, layer in self.named_children() if uses[name] == 1)
        return RunningVariances(x for _, x in layers if isinstance(x, TorchBatchNorm))

    def logits(self, x: Tensor) -> Tensor:
        """Return the output before the last sigmoid, softmax or log_softmax; x is (N, C, H, W)."""
        values = {self._input: x}
        for step in self._steps:
            y = self._modules[step.module](*[values[name] for name in step.inputs])  # type: ignore[misc]
            values[step.output] = y if step.activation is None else step.activation(y)
            for name in step.done:
                del values[name]
        return values[self._output]

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output; x is (N, C, H, W)."""
        y = self.logits(x)
        return y if self._probabilities is None else self._probabilities(y)


def _with_lifetimes(steps: list[_Step], output: str) -> list[_Step]:
    last_use = {name: i for i, step in enumerate(steps) for name in step.inputs}
    done: list[list[str]] = [[] for _ in steps]
    for name, i in last_use.items():
        if name != output:
            done[i].append(name)
    return [
        _Step(s.module, s.inputs, s.output, s.activation, tuple(names))
        for s, names in zip(steps, done, strict=True)
    ]


def module_names(graph: Graph) -> dict[str, str]:
    """Map layers' names to children's: torch forbids dots, and names that a module has."""
    names: dict[str, str] = {}
    taken = set(dir(nn.Module())) | {
        "final_activation",
        "module_names",
        "layer_weights",
        "shapes",
        "logits",
        "place",
        "running_variances",
    }
    for layer in graph.layers():
        name = layer.name.replace(".", "_") or "_"
        while name in taken or name.startswith("_"):
            name = f"{name}_" if name in taken else f"layer{name}"
        taken.add(name)
        names[layer.name] = name
    return names


def build_module(graph: Graph, input_shape: Shape) -> KerasModule:
    """Build the network for images of `input_shape` (H, W, C); weights start as the file says."""
    check_network(graph, input_shape)
    return KerasModule(graph, input_shape)
