"""Reads a config file, and checks it before anything runs."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.bounded import BoundError, check_depth, read_bytes
from trainer.config.messages import describe_errors
from trainer.config.network import NeuralNetwork
from trainer.errors import ConfigError
from trainer.keypath import set_path

MAX_CONFIG_BYTES = 16 * 2**20


def parse_config(obj: Any, source: str = "config") -> NeuralNetwork:
    """Check `{"neural_network": {…}}` and return it.

    Raises:
        ConfigError: every mistake found, one a line, each with its dotted path.
    """
    _check_top(obj, source)
    try:
        return NeuralNetwork.model_validate(obj["neural_network"])
    except ValidationError as error:
        raise ConfigError(describe_errors(error, source)) from None


def _check_top(obj: Any, source: str) -> None:
    if not isinstance(obj, dict) or set(obj) != {"neural_network"}:
        raise ConfigError(f'{source}: expected one object "neural_network" at the top')


def load_config(path: Path, settings: dict[str, Any] | None = None) -> NeuralNetwork:
    """Read a config file, apply `settings` (dotted path → value), and check the result."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        text = read_bytes(path, MAX_CONFIG_BYTES, follow_links=True).decode("utf-8-sig")
        check_depth(text)
        obj = json.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except BoundError as error:
        raise ConfigError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error})") from None
    _check_top(obj, str(path))
    for key, value in (settings or {}).items():
        set_path(obj, f"neural_network.{key}", value)
    return parse_config(obj, str(path))
