"""The order in which Keras lists a model's layers: it numbers the variables in newer files.

A Sequential keeps its own order. A functional model is sorted by depth, counted from the output
(`map_graph` of Keras), and within one depth by the first visit of a walk back from the output.
"""

from __future__ import annotations

from collections.abc import Iterator

from trainer.networks.keras_json import Block, RawLayer
from trainer.networks.references import Reference

Call = tuple[str, int]


def list_layers(block: Block, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield path and class of every layer, models included, in Keras's order."""
    for name in _order(block):
        raw = block.layers[name]
        yield (*path, name), raw.kind
        if raw.block is not None:
            yield from list_layers(raw.block, (*path, name))


def _order(block: Block) -> list[str]:
    if block.sequential:
        return list(block.layers)
    finished, indices = _walk_back(block)
    depths: dict[Call, int] = {}
    layer_depths: dict[str, int] = {}
    for call in reversed(finished):
        depth = max(depths.get(call, 0), layer_depths.get(call[0], 0))
        layer_depths[call[0]] = depths[call] = depth
        for source in _sources(block, call):
            depths[source] = max(depth + 1, depths.get(source, 0))
    return sorted(layer_depths, key=lambda name: (-layer_depths[name], indices[name]))


def _walk_back(block: Block) -> tuple[list[Call], dict[str, int]]:
    """Return the calls, each after those that it takes from, and when each layer was met."""
    finished: dict[Call, None] = {}
    indices: dict[str, int] = {}
    for output in block.outputs:
        stack = [(_call(block, output), False)]
        while stack:
            call, done = stack.pop()
            if done:
                finished[call] = None
            elif call not in finished:
                indices.setdefault(call[0], len(indices))
                stack.append((call, True))
                stack += [(source, False) for source in reversed(_sources(block, call))]
    return list(finished), indices


def _sources(block: Block, call: Call) -> list[Call]:
    raw: RawLayer = block.layers[call[0]]
    return [_call(block, ref) for ref in raw.calls[call[1]]] if raw.calls else []


def _call(block: Block, ref: Reference) -> Call:
    return ref.layer, ref.call - block.layers[ref.layer].call_offset
