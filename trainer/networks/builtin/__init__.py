"""The registry of our own networks: names, options, and what writes each as Keras JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import NetworkError
from trainer.networks.builtin.efficientunet import SCALES, write_efficientunet
from trainer.networks.builtin.fcn8s import write_fcn8s
from trainer.networks.builtin.fcn_alexnet import write_fcn_alexnet
from trainer.networks.builtin.jsrt import write_fcn, write_large_fcn, write_light_unet
from trainer.networks.builtin.pets import write_pets
from trainer.networks.builtin.resunet import write_resunet
from trainer.networks.builtin.unet import write_unet
from trainer.networks.functions import guess
from trainer.networks.plugin import is_plugin_network, plugin_network_json
from trainer.networks.spec import Shape
from trainer.plugins import NETWORKS_GROUP, plugin_names


@dataclass(frozen=True)
class Option:
    """A whole number that changes a built-in network."""

    default: int
    minimum: int
    maximum: int


@dataclass(frozen=True)
class Builtin:
    """A built-in network: `write(input_shape, num_classes, **options)` and what it is."""

    write: Callable[..., dict[str, Any]]
    summary: str
    options: Mapping[str, Option] = field(default_factory=dict)


BUILTIN_NETWORKS: Mapping[str, Builtin] = {
    "unet": Builtin(
        write_unet,
        "compact residual U-Net for CPUs, about 124,000 parameters",
        {"width": Option(16, 2, 512), "depth": Option(4, 1, 8)},
    ),
    "efficientunet": Builtin(
        write_efficientunet,
        "U-Net over EfficientNet-Lite, 3.3 million parameters, starts from ImageNet",
        {"lite": Option(0, 0, len(SCALES) - 1)},
    ),
    "resunet": Builtin(write_resunet, "U-Net over a ResNet-50 encoder, 32.5 million parameters"),
    "pets": Builtin(write_pets, "Xception-style U-Net of the Oxford-pets tutorial, 2.1 million"),
    "fcn": Builtin(
        write_fcn,
        "small FCN of the chest X-ray course, 63,686 parameters",
        {"width": Option(16, 1, 512)},
    ),
    "large_fcn": Builtin(write_large_fcn, "larger FCN of that course, 973,574 parameters"),
    "light_unet": Builtin(write_light_unet, "light U-Net of that course, 3.9 million parameters"),
    "fcn8s": Builtin(
        write_fcn8s,
        "FCN-8s over VGG-16, 134 million parameters (fc=512: 28 million)",
        {"fc": Option(4096, 1, 4096)},
    ),
    "fcn_alexnet": Builtin(
        write_fcn_alexnet,
        "FCN-AlexNet of the DIGITS tutorials, 57 million parameters (fc=512: 7 million)",
        {"fc": Option(4096, 1, 4096)},
    ),
}


def known_networks() -> tuple[str, ...]:
    """Return the names of our networks, then those of installed plug-ins."""
    return tuple(dict.fromkeys((*BUILTIN_NETWORKS, *plugin_names(NETWORKS_GROUP))))


def is_builtin(spec: str) -> bool:
    """Tell whether `spec` (a name, perhaps with `:option=number,…`) means a built-in network."""
    return spec.split(":", maxsplit=1)[0] in BUILTIN_NETWORKS


def is_named(spec: str) -> bool:
    """Tell whether `spec` means a built-in network, or a plug-in's."""
    return is_builtin(spec) or is_plugin_network(spec)


def network_json(spec: str, input_shape: Shape, num_classes: int) -> dict[str, Any]:
    """Write a built-in network for images of (H, W, C) as Keras JSON, or name a plug-in's.

    One class gives one sigmoid channel, more give a softmax. An unknown name or option raises
    NetworkError with the nearest one and the valid set.
    """
    name, _, settings = spec.partition(":")
    if name not in BUILTIN_NETWORKS and not is_plugin_network(spec):
        known = known_networks()
        raise NetworkError(
            f"network '{name[:60]}': there is no built-in network of this name"
            f"{guess(name, dict.fromkeys(known))}; expected one of {', '.join(known)}"
        )
    if num_classes < 1 or min(input_shape) < 1:
        raise NetworkError(
            f"network '{spec}': expected sizes and classes from 1 on, received input "
            f"{list(input_shape)} and {num_classes} classes"
        )
    if name not in BUILTIN_NETWORKS:
        return plugin_network_json(spec, input_shape, num_classes)
    builtin = BUILTIN_NETWORKS[name]
    return builtin.write(input_shape, num_classes, **_read_options(spec, settings, builtin))


def _read_options(spec: str, settings: str, builtin: Builtin) -> dict[str, int]:
    options = {key: option.default for key, option in builtin.options.items()}
    given: set[str] = set()
    for item in filter(None, settings.split(",")):
        key, _, text = (part.strip() for part in item.partition("="))
        option = builtin.options.get(key)
        if option is None:
            valid = ", ".join(builtin.options) or "none"
            raise NetworkError(
                f"network '{spec}': there is no option '{key}'"
                f"{guess(key, builtin.options)}; expected one of: {valid}"
            )
        if key in given:
            raise NetworkError(f"network '{spec}': {key} is given twice")
        is_number = text.isascii() and text.isdigit() and len(text) < 10
        if not is_number or not option.minimum <= int(text) <= option.maximum:
            raise NetworkError(
                f"network '{spec}': {key}: expected a whole number from {option.minimum} to "
                f"{option.maximum}, received '{text}'"
            )
        given.add(key)
        options[key] = int(text)
    return options
