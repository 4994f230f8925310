"""Reads and writes one field of a nested JSON object by its dotted path.

`data.transforms[0].resize` is the path that errors print, that `--set` and `--search` take, and
that a study stores. No torch here: the driver imports this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from trainer.errors import ConfigError

Key = str | int

_PART = re.compile(r"([^.\[\]]+)((?:\[\d+\])*)")


def split_path(path: str) -> tuple[Key, ...]:
    """Split `a.b[0].c` into `("a", "b", 0, "c")`."""
    keys: list[Key] = []
    for part in path.split("."):
        match = _PART.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"{path!r} is not a config key; expected something like data.batch_size"
            )
        keys.append(match[1])
        keys.extend(int(index) for index in re.findall(r"\d+", match[2]))
    return tuple(keys)


def join_path(keys: tuple[Key, ...]) -> str:
    """Write `("a", "b", 0)` as `a.b[0]`."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def get_path(tree: Any, path: str, default: Any = None) -> Any:
    """Return the field at `path`, or `default` where there is none."""
    for key in split_path(path):
        try:
            tree = tree[key]
        except (KeyError, IndexError, TypeError):
            return default
    return tree


def set_path(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set the field at `path` in place, making the objects on the way.

    Raises:
        ConfigError: a list index that does not exist, or a step into something that is no object.
    """
    keys = split_path(path)
    node: Any = tree
    for position, key in enumerate(keys):
        is_last = position == len(keys) - 1
        where = join_path(keys[: position + 1])
        if isinstance(key, int):
            if not isinstance(node, list):
                raise ConfigError(f"{where}: {join_path(keys[:position])} is not a list")
            if key >= len(node):
                raise ConfigError(f"{where}: the list has {len(node)} entries, from 0")
        elif not isinstance(node, dict):
            raise ConfigError(f"{where}: {join_path(keys[:position])} is not an object")
        if is_last:
            node[key] = value
        elif isinstance(key, int):
            node = node[key]
        else:
            node = node.setdefault(key, {})


def copy_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deep copy of plain JSON values; tuples become lists."""
    copied: dict[str, Any] = json.loads(json.dumps(config))
    return copied


def parse_value(text: str) -> Any:
    """Read a value as JSON where it is JSON, else as the text itself (`adam`, `./a.json`)."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_setting(text: str) -> tuple[str, Any]:
    """Split `KEY=VALUE`, as `--set` takes it."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"{text!r}: expected KEY=VALUE, such as data.batch_size=16")
    key = key.strip().removeprefix("neural_network.")
    split_path(key)
    return key, parse_value(value.strip())
