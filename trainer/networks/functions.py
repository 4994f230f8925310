"""Activation functions by the names that Keras 2 and 3 write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainer.nearest import nearest
from trainer.networks.refused import ACTIVATIONS, SETTINGS
from trainer.networks.spec import LINEAR, Function

ErrorMaker = Callable[[str], Exception]

# name in the file -> what it means; numbers are Keras's defaults
FUNCTIONS: dict[str, Function] = {
    "linear": LINEAR,
    "relu": Function("relu"),
    "relu6": Function("relu6"),
    "leaky_relu": Function("leaky_relu", (0.2,)),
    "elu": Function("elu", (1.0,)),
    "selu": Function("selu"),
    "gelu": Function("gelu"),
    "silu": Function("silu"),
    "swish": Function("silu"),
    "mish": Function("mish"),
    "softplus": Function("softplus"),
    "softsign": Function("softsign"),
    "exponential": Function("exponential"),
    "tanh": Function("tanh"),
    "sigmoid": Function("sigmoid"),
    "hard_sigmoid": Function("hard_sigmoid"),
    "hard_silu": Function("hard_silu"),
    "hard_swish": Function("hard_silu"),
    "softmax": Function("softmax"),
    "log_softmax": Function("log_softmax"),
    "log_softmax_v2": Function("log_softmax"),
    "softmax_v2": Function("softmax"),
}
# Keras 2 wrote clip(0.2 x + 0.5, 0, 1), Keras 3 writes relu6(x + 3) / 6
KERAS2_HARD_SIGMOID = Function("hard_sigmoid_keras2")

# activation layers that some files put where a function's name stands
LAYER_FUNCTIONS = {
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "ELU": "elu",
    "Softmax": "softmax",
}


def guess(name: str, valid: Mapping[str, Any]) -> str:
    """Return `; did you mean 'x'?` for a slip of the pen, else nothing."""
    meant = nearest(name, valid)
    return f"; did you mean '{meant}'?" if meant else ""


def read_function(value: object, *, keras_major: int, error: ErrorMaker) -> Function:
    """Read an activation: a name, or an object as Keras 3 and custom functions write it."""
    if isinstance(value, dict):
        config = value.get("config")
        name = value.get("class_name")
        if name == "function" or name is None:
            return read_function(
                config if isinstance(config, str) else value.get("name"),
                keras_major=keras_major,
                error=error,
            )
        return _read_layer(name, config, error)
    if not isinstance(value, str):
        raise error("expected the name of an activation function")
    name = value.rsplit(">", maxsplit=1)[-1]  # 'package>name' marks a registered function
    if name in LAYER_FUNCTIONS:
        return _read_layer(name, {}, error)
    name = name.lower()
    if name == "hard_sigmoid" and keras_major < 3:
        return KERAS2_HARD_SIGMOID
    if name in ACTIVATIONS:
        raise error(f"{name} is not supported; expected one of {', '.join(FUNCTIONS)}")
    if name not in FUNCTIONS:
        hint = guess(name, FUNCTIONS)
        raise error(
            f"unknown activation '{name[:60]}'{hint}; expected one of {', '.join(FUNCTIONS)}"
        )
    return FUNCTIONS[name]


def _read_layer(name: object, config: object, error: ErrorMaker) -> Function:
    if not isinstance(name, str) or name not in LAYER_FUNCTIONS:
        raise error(
            "expected the name of a function or one of the layers " + ", ".join(LAYER_FUNCTIONS)
        )
    settings = config if isinstance(config, dict) else {}
    base = FUNCTIONS[LAYER_FUNCTIONS[name]]
    if base.name == "leaky_relu":
        return Function("leaky_relu", (_slope(settings, ("negative_slope", "alpha"), 0.3, error),))
    if base.name == "elu":
        return Function("elu", (_slope(settings, ("alpha",), 1.0, error),))
    if base.name == "relu" and settings.get("max_value") == 6:
        return FUNCTIONS["relu6"]
    if base.name == "relu" and any(
        settings.get(key) for key in ("max_value", "negative_slope", "threshold")
    ):
        raise error(SETTINGS["activation"].message())
    return base


def _slope(
    settings: Mapping[str, Any], keys: tuple[str, ...], default: float, error: ErrorMaker
) -> float:
    for key in keys:
        value = settings.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
            raise error(f"{key}: expected a finite number")
        return float(value)
    return default
