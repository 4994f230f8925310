"""Initializers by the names that Keras 2 and 3 write (https://keras.io/api/layers/initializers/).

Variance scaling keeps Keras's reading of a kernel's shape (fan in = receptive field × the last
axis but one), also where that is surprising: transposed and depthwise kernels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from trainer.networks.spec import Initializer

ErrorMaker = Callable[[str], Exception]

# (scale, mode, distribution) of the named variance-scaling initializers
_SCALED: dict[str, Initializer] = {
    "glorot_uniform": Initializer("scaled_uniform", 1.0, mode="fan_avg"),
    "glorot_normal": Initializer("scaled_truncated", 1.0, mode="fan_avg"),
    "he_uniform": Initializer("scaled_uniform", 2.0, mode="fan_in"),
    "he_normal": Initializer("scaled_truncated", 2.0, mode="fan_in"),
    "lecun_uniform": Initializer("scaled_uniform", 1.0, mode="fan_in"),
    "lecun_normal": Initializer("scaled_truncated", 1.0, mode="fan_in"),
}
# name -> kind, and (key, Keras's default) of its numbers; an empty key: a fixed number
_PLAIN: dict[str, tuple[str, tuple[tuple[str, float], ...]]] = {
    "zeros": ("constant", (("", 0.0),)),
    "zero": ("constant", (("", 0.0),)),
    "ones": ("constant", (("", 1.0),)),
    "one": ("constant", (("", 1.0),)),
    "constant": ("constant", (("value", 0.0),)),
    "random_normal": ("normal", (("mean", 0.0), ("stddev", 0.05))),
    "normal": ("normal", (("mean", 0.0), ("stddev", 0.05))),
    "truncated_normal": ("truncated", (("mean", 0.0), ("stddev", 0.05))),
    "random_uniform": ("uniform", (("minval", -0.05), ("maxval", 0.05))),
    "uniform": ("uniform", (("minval", -0.05), ("maxval", 0.05))),
    "orthogonal": ("orthogonal", (("gain", 1.0),)),
    "orthogonal_initializer": ("orthogonal", (("gain", 1.0),)),
    "identity": ("identity", (("gain", 1.0),)),
    "identity_initializer": ("identity", (("gain", 1.0),)),
}
_DISTRIBUTIONS = {
    "normal": "scaled_truncated",  # Keras 2 and 3 both truncate here
    "truncated_normal": "scaled_truncated",
    "untruncated_normal": "scaled_normal",
    "uniform": "scaled_uniform",
}
_MODES = ("fan_in", "fan_out", "fan_avg")


def read_initializer(value: object, default: Initializer, *, error: ErrorMaker) -> Initializer:
    """Read an initializer: a name, or an object `{class_name, config}`."""
    settings: Mapping[str, Any] = {}
    name: object = value
    if isinstance(value, dict):
        name = value.get("class_name")
        config = value.get("config")
        settings = config if isinstance(config, dict) else {}
        if name == "function" and isinstance(config, str):
            name = config
    if not isinstance(name, str):
        raise error("expected the name of an initializer")
    return _named(_snake_case(name), settings, default, error)


def _named(
    name: str, settings: Mapping[str, Any], default: Initializer, error: ErrorMaker
) -> Initializer:
    if name in _SCALED:
        return _SCALED[name]
    if name == "constant" and isinstance(settings.get("value"), list):
        return default  # an array of values: a checkpoint's business
    if name == "variance_scaling":
        return _variance_scaling(settings, error)
    if name not in _PLAIN:
        raise error(f"unknown initializer '{name[:60]}'")
    kind, keys = _PLAIN[name]
    numbers = [_number(settings, key, fallback, error) for key, fallback in keys]
    if kind == "uniform" and numbers[0] > numbers[1]:
        raise error(f"expected minval <= maxval, received {numbers[0]:g} and {numbers[1]:g}")
    return Initializer(kind, numbers[0], numbers[-1])


def _number(settings: Mapping[str, Any], key: str, fallback: float, error: ErrorMaker) -> float:
    if not key:
        return fallback
    value = settings.get(key)
    if value is None:
        return fallback
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise error(f"{key}: expected a finite number")
    return float(value)


def _variance_scaling(settings: Mapping[str, Any], error: ErrorMaker) -> Initializer:
    mode = settings.get("mode", "fan_in")
    distribution = settings.get("distribution", "truncated_normal")
    if mode not in _MODES or distribution not in list(_DISTRIBUTIONS):
        raise error(
            f"expected mode of {', '.join(_MODES)} and distribution of {', '.join(_DISTRIBUTIONS)}"
        )
    scale = _number(settings, "scale", 1.0, error)
    if scale <= 0:
        raise error(f"scale: expected a number above 0, received {scale:g}")
    return Initializer(_DISTRIBUTIONS[distribution], scale, mode=mode)


def _snake_case(name: str) -> str:
    name = name.rsplit(">", maxsplit=1)[-1]
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return name.removesuffix("_v2").removesuffix("_v1")
