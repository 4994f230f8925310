"""A config as a flat list of settings: what a run was asked for, and says that it used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainer.config.network import NeuralNetwork
from trainer.keypath import join_path

_SECTIONS = {"num_epochs", "seed", "precision", "optimizer", "loss", "data", "metrics"}
_PLACES = {  # where files are, which each machine sees elsewhere
    "input_path",
    "target_path",
    "test_input_path",
    "test_target_path",
    "test_output_path",
    "hdf5_outfile",
    "cache",
}


def settings_of(config: NeuralNetwork) -> dict[str, Any]:
    """Return the settings that results depend on, by dotted path, with defaults filled in.

    Values are JSON's. What is not set, and has no default, is left out.
    """
    tree = config.model_dump(mode="json", include=_SECTIONS, exclude_none=True)
    tree["data"] = {key: value for key, value in tree["data"].items() if key not in _PLACES}
    return {join_path(keys): value for keys, value in _leaves(tree, ())}


def _leaves(node: Any, keys: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield what is no object; lists of objects are taken apart, others are values."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, (*keys, key))
    elif isinstance(node, list) and any(isinstance(each, dict) for each in node):
        for index, value in enumerate(node):
            yield from _leaves(value, (*keys, index))
    else:
        yield keys, node
