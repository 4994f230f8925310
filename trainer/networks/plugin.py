"""Networks of the user's own, as the config and files name them; `plugin_module.py` builds them.

A file of such a network holds its plug-in's name, options, and what it is built for: what a
Keras-JSON file is to the others. No torch here, and no code of the plug-in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from trainer.errors import NetworkError
from trainer.networks.functions import guess
from trainer.networks.spec import Shape
from trainer.plugins import NETWORKS_GROUP, package_of, plugin_names

KEY = "network_plugin"  # what a file has that is none of Keras's

REFUSED = "refused: "  # before what plugin_check.py has against a network
FACTS = "facts: "  # before what it says of one; a plug-in may print more

OptionValue = int | float | bool | str


@dataclass(frozen=True)
class PluginNetwork:
    """A call of a plug-in.

    Attributes:
        name: the entry point's.
        options: further arguments, by name.
        input_shape: (H, W, C), or (D, H, W, C).
        num_outputs: channels of the output.
        source: the file, or what else says so.
        package: where the plug-in is from.
    """

    name: str
    options: Mapping[str, OptionValue]
    input_shape: Shape
    num_outputs: int
    source: str
    package: str | None

    @property
    def title(self) -> str:
        """Return it as `layers` names it."""
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name

    def check_installed(self) -> None:
        """Refuse a plug-in that is not installed here.

        Raises:
            NetworkError: it is not.
        """
        if self.name not in plugin_names(NETWORKS_GROUP):
            package = f"package {self.package!r}" if self.package else "its package"
            raise NetworkError(
                f"{self.source}: the network is of plug-in {self.name!r} ({NETWORKS_GROUP}), "
                f"which is not installed here; install {package} beside rmldnn"
            )


def is_plugin_network(spec: str) -> bool:
    """Tell whether `spec` (a name, perhaps with `:option=value,…`) means an installed plug-in."""
    return spec.partition(":")[0] in plugin_names(NETWORKS_GROUP)


def plugin_network_json(spec: str, input_shape: Shape, num_outputs: int) -> dict[str, Any]:
    """Return what a file of a plug-in's network holds.

    Raises:
        NetworkError: an option without a value, or given twice.
    """
    name, _, settings = spec.partition(":")
    options: dict[str, OptionValue] = {}
    for item in filter(None, settings.split(",")):
        key, _, text = (part.strip() for part in item.partition("="))
        if not key.isidentifier() or not text or key in options:
            raise NetworkError(
                f"network '{spec}': expected options such as width=8, each once, not '{item}'"
            )
        options[key] = _value(text)
    return {
        KEY: name,
        "options": options,
        "input_shape": list(input_shape),
        "num_outputs": num_outputs,
        "package": package_of(NETWORKS_GROUP, name),
    }


def read_plugin_network(obj: object, source: str) -> PluginNetwork | None:
    """Read what a file holds; None of a network of Keras's.

    Raises:
        NetworkError: it is a plug-in's, but not as we write it.
    """
    if not isinstance(obj, dict) or KEY not in obj:
        return None

    def refuse(key: str, expected: str) -> NoReturn:
        raise NetworkError(f"{source}: {key}: expected {expected}, received {obj.get(key)!r}")

    name, options, package = obj[KEY], obj.get("options", {}), obj.get("package")
    shape, num_outputs = obj.get("input_shape"), obj.get("num_outputs")
    if not isinstance(name, str) or not name:
        refuse(KEY, "the name of a plug-in")
    if not isinstance(options, dict) or not all(
        key.isidentifier() and isinstance(value, OptionValue) for key, value in options.items()
    ):
        refuse("options", "names with numbers or texts")
    if not isinstance(shape, list) or len(shape) not in (3, 4) or not all(map(_is_size, shape)):
        refuse("input_shape", "[H, W, C] or [D, H, W, C]")
    if not isinstance(num_outputs, int) or not _is_size(num_outputs):
        refuse("num_outputs", "a whole number from 1 on")
    if package is not None and not isinstance(package, str):
        refuse("package", "the name of a package")
    return PluginNetwork(name, options, tuple(shape), num_outputs, source, package)


def unknown_option(network: PluginNetwork, key: str, known: Mapping[str, Any]) -> NetworkError:
    """Return the error for an option that the plug-in's function does not take."""
    return NetworkError(
        f"network '{network.title}': there is no option '{key}'{guess(key, known)}; expected "
        f"one of: {', '.join(known) or 'none'}"
    )


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def _value(text: str) -> OptionValue:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
