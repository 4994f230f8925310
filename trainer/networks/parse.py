"""Turns the JSON of a network into a `Graph`: checks every layer and orders the calls."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from trainer.bounded import read_bytes
from trainer.errors import NetworkError
from trainer.networks.config import Config
from trainer.networks.functions import guess
from trainer.networks.graph import Graph, Layer, Node
from trainer.networks.keras_json import (
    MAX_LAYERS,
    Block,
    RawLayer,
    read_block,
)
from trainer.networks.keras_order import list_layers
from trainer.networks.keras_text import parse_json_text
from trainer.networks.keras_version import keras_major
from trainer.networks.layers import LAYERS
from trainer.networks.layers.elementwise import Input
from trainer.networks.layers.normalization import BatchNorm
from trainer.networks.plugin import PluginNetwork, read_plugin_network
from trainer.networks.references import Reference
from trainer.wording import counted

Network = Graph | PluginNetwork

MAX_CALLS = 2 * MAX_LAYERS  # of layers and models

MODEL_SUFFIXES = (".h5", ".hdf5", ".keras")  # of whole models
MAX_FILE_BYTES = 64 * 2**20  # the largest of keras.applications has 1.5 MB


def load_network(path: Path) -> Network:
    """Read a network's JSON file, or the network within a whole model (`.h5`, `.keras`)."""
    return parse_any_network(read_network(path), str(path))


def parse_any_network(obj: object, source: str) -> Network:
    """Check what a network's file holds, of Keras or of a plug-in; see `parse_network`."""
    return read_plugin_network(obj, source) or parse_network(obj, source)


def read_network(path: Path) -> object:
    """Return what a network's file holds, as JSON has it; see `load_network`.

    Raises:
        NetworkError: no such file, or no network in it.
    """
    if path.suffix in MODEL_SUFFIXES and path.is_file():
        return _model_config(path)
    try:
        content = read_bytes(path, MAX_FILE_BYTES + 1, cut=True, follow_links=True)
        if len(content) > MAX_FILE_BYTES:
            raise NetworkError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB; is it a network?")
        return parse_json_text(content.decode("utf-8-sig"))
    except FileNotFoundError:
        raise NetworkError(f"{path}: no such file{_instead_of(str(path))}") from None
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise NetworkError(f"{path}: is no JSON file ({reason})") from None


def _instead_of(name: str) -> str:
    """Say what a name that is no file may have been meant to be."""
    from trainer.networks.builtin import known_networks

    if "." in name or "/" in name:
        return ""
    network, known = name.partition(":")[0], known_networks()
    return (
        f", and no built-in network{guess(network, dict.fromkeys(known))}; "
        f"these are {', '.join(known)}"
    )


def _model_config(path: Path) -> object:
    from trainer.networks.stored import READ_ERRORS, read_model_config

    try:
        return read_model_config(path)
    except READ_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise NetworkError(f"{path}: holds no network of Keras ({reason})") from None


def parse_network(obj: object, source: str) -> Graph:
    """Check a network (Keras's JSON as an object, or a list of layers) and order its calls.

    Raises NetworkError, in one line that begins with `source` and names layer and key.
    """
    obj = _unwrapped(obj, source)
    version = None
    if isinstance(obj, dict) and "model_config" in obj:
        version = obj.get("keras_version")
        obj = _unwrapped(obj["model_config"], source)
    try:
        block = read_block(obj, source)
        return _Builder(source, keras_major(obj, version)).build(block)
    except RecursionError:
        raise NetworkError(f"{source}: nested too deep to be a network") from None


def _unwrapped(obj: object, source: str) -> object:
    """Read to_json()'s text that was wrapped once more, as some scripts write it."""
    if not isinstance(obj, str):
        return obj
    try:
        return parse_json_text(obj)
    except (ValueError, RecursionError):
        raise NetworkError(f"{source}: expected a network, received a text") from None


class _Builder:
    def __init__(self, source: str, keras_major: int) -> None:
        self.source = source
        self.keras_major = keras_major
        self.notes: list[str] = []
        self.counted = False
        self.nodes: dict[str, Node] = {}
        self.layers: dict[tuple[str, ...], Layer] = {}
        self.names: set[str] = set()
        self.num_calls = 0  # also of models that return what they are given, and add no node

    def build(self, block: Block) -> Graph:
        self._check_references(block, ())
        _expect_one(block.inputs, f"{self.source}: the network has {{}} inputs{{}}")
        inputs = {ref.layer for ref in block.inputs}
        for name in inputs:
            if name not in block.layers or block.layers[name].kind != "InputLayer":
                raise NetworkError(f"{self.source}: input_layers: '{name}' is no InputLayer")
        _expect_one(block.outputs, f"{self.source}: the network has {{}} outputs{{}}")
        (output,) = self.emit(block, (), "", [None], True)
        nodes = _ancestors(self.nodes, output)
        first = [name for name, node in nodes.items() if isinstance(node.layer.spec, Input)]
        if len(first) != 1:
            raise NetworkError(f"{self.source}: the output does not depend on the input layer")
        spec = nodes[first[0]].layer.spec
        assert isinstance(spec, Input)
        return Graph(
            name=block.name,
            source=self.source,
            nodes=tuple(nodes.values()),
            input=first[0],
            output=output,
            input_shape=spec.shape,
            notes=tuple(self.notes),
            listing=tuple(list_layers(block)),
        )

    def emit(
        self,
        block: Block,
        path: tuple[str, ...],
        prefix: str,
        inputs: list[str | None],
        trainable: bool,
    ) -> list[str]:
        """Add the nodes of a model's call; return the names of its outputs.

        `inputs` are the nodes that stand for its input layers, None for the network's own.
        """
        outputs: dict[tuple[str, int], list[str]] = {}
        given = dict(zip((ref.layer for ref in block.inputs), inputs, strict=True))
        calls = self._ordered_calls(block, path)
        self.num_calls += len(calls)
        if self.num_calls > MAX_CALLS:
            raise NetworkError(f"{self.source}: more than {MAX_CALLS} calls of layers")
        for name, call in calls:
            raw = block.layers[name]
            outer = given.get(name) if not raw.calls else None
            if outer is not None:
                outputs[name, call] = [outer]
                continue
            taken = [
                self._output(outputs, block, ref, raw.name)
                for ref in (raw.calls[call] if raw.calls else [])
            ]
            suffix = f":{call}" if call else ""
            outputs[name, call] = self._call(
                raw, (*path, name), f"{prefix}{name}{suffix}", taken, trainable
            )
        return [self._output(outputs, block, ref, "the output") for ref in block.outputs]

    def _call(
        self,
        raw: RawLayer,
        path: tuple[str, ...],
        node_name: str,
        inputs: list[str],
        trainable: bool,
    ) -> list[str]:
        where = self._where(raw, path)
        trainable = trainable and raw.trainable
        if raw.block is not None:
            if len(inputs) != len(raw.block.inputs):
                raise NetworkError(
                    f"{where}: the model has {counted(len(raw.block.inputs), 'input')}, "
                    f"but is called with {len(inputs)}"
                )
            return self.emit(raw.block, path, node_name + "/", list(inputs), trainable)
        layer = self._layer(raw, path, where, trainable)
        self._check_arity(layer, inputs, where)
        while node_name in self.nodes:
            node_name += "_"
        self.nodes[node_name] = Node(node_name, layer, tuple(inputs))
        return [node_name]

    def _layer(self, raw: RawLayer, path: tuple[str, ...], where: str, trainable: bool) -> Layer:
        if path not in self.layers:
            if "/".join(path) in self.names:  # 'a/b', and 'b' within a model 'a'
                raise NetworkError(f"{where}: two layers have this name; rename one")
            self.names.add("/".join(path))
            config = Config(raw.config, where, keras_major=self.keras_major, notes=self.notes)
            read = LAYERS.get(raw.kind)
            if read is None:
                raise NetworkError(_unknown_layer(where, raw.kind))
            config.note_ignored()
            if config.get("quantization_config") is not None:
                raise config.refusal("quantization_config")
            self.layers[path] = Layer(path, raw.kind, read(config), trainable)
            self._note_counting(self.layers[path], config)
        return self.layers[path]

    def _note_counting(self, layer: Layer, config: Config) -> None:
        """Say once where the reference engine counts gamma and beta that Keras has not."""
        spec = layer.spec
        if isinstance(spec, BatchNorm) and not (spec.center and spec.scale) and not self.counted:
            self.counted = True
            config.note("parameters are counted as Keras does: without gamma and beta where off")

    def _check_arity(self, layer: Layer, inputs: list[str], where: str) -> None:
        if isinstance(layer.spec, Input):
            if inputs:
                raise NetworkError(f"{where}: inbound_nodes: an input takes none")
        elif not inputs:
            raise NetworkError(f"{where}: inbound_nodes: expected an input, received none")
        elif len(inputs) > layer.spec.max_inputs:
            raise NetworkError(
                f"{where}: inbound_nodes: expected {layer.spec.max_inputs} input, "
                f"received {len(inputs)}"
            )

    def _where(self, raw: RawLayer, path: tuple[str, ...]) -> str:
        return f"{self.source}: layer '{'/'.join(path)}' ({raw.kind})"

    def _output(
        self,
        outputs: Mapping[tuple[str, int], list[str]],
        block: Block,
        ref: Reference,
        user: str,
    ) -> str:
        call = ref.call - block.layers[ref.layer].call_offset
        tensors = outputs[ref.layer, call]
        if ref.tensor >= len(tensors):
            raise NetworkError(
                f"{self.source}: layer '{user}': inbound_nodes: '{ref.layer}' has "
                f"{counted(len(tensors), 'output')}, no number {ref.tensor}"
            )
        return tensors[ref.tensor]

    def _ordered_calls(self, block: Block, path: tuple[str, ...]) -> list[tuple[str, int]]:
        """Order a model's calls so that each comes after those that it takes from."""
        self._check_references(block, path)
        # the insertion order (the file's) is kept wherever the graph leaves it open
        sorter: TopologicalSorter[tuple[str, int]] = TopologicalSorter()
        for name, raw in block.layers.items():
            for call, refs in enumerate(raw.calls or [[]]):
                before = [
                    (ref.layer, ref.call - block.layers[ref.layer].call_offset) for ref in refs
                ]
                sorter.add((name, call), *before)
        try:
            return list(sorter.static_order())
        except CycleError as error:
            names = " -> ".join(f"'{name}'" for name, _ in error.args[1][:8])
            raise NetworkError(f"{self.source}: layers form a cycle: {names}") from None

    def _check_references(self, block: Block, path: tuple[str, ...]) -> None:
        users = [
            (raw.name, ref) for raw in block.layers.values() for call in raw.calls for ref in call
        ]
        users += [("output_layers", ref) for ref in [*block.inputs, *block.outputs]]
        for user, ref in users:
            if ref.layer not in block.layers:
                raise NetworkError(
                    f"{self.source}: layer '{'/'.join([*path, user])}': inbound_nodes: "
                    f"there is no layer '{ref.layer[:80]}'{guess(ref.layer, block.layers)}"
                )
            target = block.layers[ref.layer]
            count = max(len(target.calls), 1)
            if target.block is not None and ref.call == count:
                target.call_offset = 1  # Keras counts the model's own making as its call 0
            if ref.call - target.call_offset not in range(count):
                raise NetworkError(
                    f"{self.source}: layer '{'/'.join([*path, user])}': inbound_nodes: "
                    f"'{ref.layer}' is called {count} times, there is no call {ref.call}"
                )


def _expect_one(references: list[Reference], message: str) -> None:
    if len(references) != 1:
        names = ", ".join(f"'{ref.layer}'" for ref in references[:5])
        listed = f" ({names})" if names else ""
        remedy = "; expected exactly one: an image goes in, a segmentation comes out"
        raise NetworkError(message.format(len(references), listed) + remedy)


def _ancestors(nodes: Mapping[str, Node], output: str) -> dict[str, Node]:
    """Keep the nodes that the output depends on, in their order."""
    needed, stack = {output}, [output]
    while stack:
        for name in nodes[stack.pop()].inputs:
            if name not in needed:
                needed.add(name)
                stack.append(name)
    return {name: node for name, node in nodes.items() if name in needed}


def _unknown_layer(where: str, kind: str) -> str:
    if kind in ("Lambda", "TensorFlowOpLayer", "SlicingOpLambda"):
        return (
            f"{where}: class_name: {kind} holds Python code, which a network file cannot carry "
            "safely; use layers for it (Rescaling, Resizing, Concatenate, Multiply, …)"
        )
    hint: dict[str, Any] = dict(LAYERS)
    return f"{where}: class_name: not supported{guess(kind, hint)}; expected one of " + ", ".join(
        sorted(LAYERS)
    )
