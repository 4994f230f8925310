"""How files name a tensor: an output of a layer's call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.errors import NetworkError
from trainer.networks.config import show


@dataclass(frozen=True)
class Reference:
    """An output of a layer's call, as the file names it."""

    layer: str
    call: int = 0
    tensor: int = 0


def keras2_reference(item: object, where: str) -> Reference:
    if isinstance(item, str):
        item = [item]
    if not isinstance(item, list) or not item or not isinstance(item[0], str):
        raise NetworkError(
            f'{where}: expected [["layer", call, tensor], …], received {show(item)}'
        )
    if len(item[0]) > 500 or not item[0].isprintable():
        raise NetworkError(f"{where}: expected a layer's name, received {show(item[0])}")
    numbers = [*item[1:3], 0, 0][:2]
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
        raise NetworkError(f"{where}: expected [layer, call, tensor], received {show(item)}")
    if len(item) > 3 and isinstance(item[3], dict):
        refuse_tensors(item[3], where)
    return Reference(item[0], *numbers)


def history(tensor: object) -> list[Any] | None:
    if isinstance(tensor, dict) and tensor.get("class_name") == "__keras_tensor__":
        config = tensor.get("config")
        history = config.get("keras_history") if isinstance(config, dict) else None
        return history if isinstance(history, list) else None
    return None


def refuse_tensors(kwargs: Mapping[str, Any], where: str) -> None:
    """Refuse a tensor that enters by name, such as an attention's or a mask."""
    for key, value in kwargs.items():
        if history(value) or (isinstance(value, list) and value and isinstance(value[0], str)):
            raise NetworkError(f"{where}: the tensor argument {show(key)} is not supported")
