"""Writes a network as Keras JSON, layer by layer, in the functional form of Keras 2.

That form is read by Keras 2.1 to 2.15, by Keras 3, and by our own loader.
"""

from __future__ import annotations

from typing import Any

from trainer.networks.names import numbered, snake_case


class NetworkWriter:
    """Collects layers; every method returns the new layer's name, to be given to the next."""

    def __init__(self, name: str, input_shape: tuple[int, int, int], input_name: str) -> None:
        self.name = name
        self.input = input_name
        self._layers: list[dict[str, Any]] = []
        self._counts: dict[str, int] = {}
        self.add("InputLayer", [], input_name, batch_input_shape=[None, *input_shape])

    def add(
        self, class_name: str, inputs: str | list[str], name: str | None = None, **config: Any
    ) -> str:
        """Add a layer; without a name it gets Keras's: add, add_1, …"""
        name = name or self._next_name(class_name)
        sources = [inputs] if isinstance(inputs, str) else inputs
        call = [[source, 0, 0, {}] for source in sources]
        self._layers.append(
            {
                "class_name": class_name,
                "name": name,
                "config": {"name": name, "trainable": True, "dtype": "float32", **config},
                "inbound_nodes": [call] if call else [],
            }
        )
        return name

    def _next_name(self, class_name: str) -> str:
        base = snake_case(class_name)
        number = self._counts.get(base, 0)
        self._counts[base] = number + 1
        return numbered(base, number)

    def conv(
        self, x: str, name: str | None, filters: int, kernel: int = 3, **settings: Any
    ) -> str:
        """Add a Conv2D: `same`, without bias and linear unless the settings say otherwise."""
        config: dict[str, Any] = {
            "strides": [1, 1],
            "padding": "same",
            "data_format": "channels_last",
            "dilation_rate": [1, 1],
            "activation": "linear",
            "use_bias": False,
            "kernel_initializer": "he_uniform",
            "bias_initializer": "zeros",
            **settings,
        }
        return self.add("Conv2D", x, name, filters=filters, kernel_size=[kernel] * 2, **config)

    def batch_norm(self, x: str, name: str | None = None, **settings: Any) -> str:
        config: dict[str, Any] = {
            "axis": [3],
            "momentum": 0.99,
            "epsilon": 1e-3,
            "center": True,
            "scale": True,
            **settings,
        }
        return self.add("BatchNormalization", x, name, **config)

    def activation(self, x: str, name: str | None, function: str = "relu") -> str:
        return self.add("Activation", x, name, activation=function)

    def upsample(
        self, x: str, name: str | None, interpolation: str = "nearest", factor: int = 2
    ) -> str:
        return self.add(
            "UpSampling2D",
            x,
            name,
            size=[factor] * 2,
            data_format="channels_last",
            interpolation=interpolation,
        )

    def concat(self, inputs: list[str], name: str) -> str:
        return self.add("Concatenate", inputs, name, axis=3)

    def finish(self, output: str) -> dict[str, Any]:
        """Return the whole network."""
        return {
            "module": "keras",  # Keras 3 looks here; Keras 2 knows the class by its name
            "class_name": "Model",
            "config": {
                "name": self.name,
                "layers": self._layers,
                "input_layers": [[self.input, 0, 0]],
                "output_layers": [[output, 0, 0]],
            },
            "keras_version": "2.9.0",
            "backend": "tensorflow",
        }


def final_function(num_classes: int) -> str:
    """Name the last activation: one channel for two classes, else one per class."""
    return "sigmoid" if num_classes == 1 else "softmax"


def small_classifier(net: NetworkWriter, x: str, name: str, num_classes: int) -> str:
    """Add a 1x1 classifier. It starts small, where the FCN paper's starts at 0: no class leads."""
    start = {"class_name": "RandomNormal", "config": {"mean": 0.0, "stddev": 0.01}}
    return net.conv(x, name, num_classes, 1, use_bias=True, kernel_initializer=start)
