"""Every layer that is read, in the settings where devices may differ, without Keras.

`tests/networks` compares layers with Keras; these compare one device with another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.networks import parse_network
from trainer.networks.builtin.writer import NetworkWriter
from trainer.networks.layers import LAYERS
from trainer.networks.layers.merging import MERGES
from trainer.networks.module import KerasModule, build_module

IMAGE, VOLUME = (9, 8, 4), (5, 6, 5, 4)  # (H, W, C) and (D, H, W, C)
ALIASES = {  # class names that are read by what reads another
    "BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization",
    "Convolution2D", "Convolution3D",
}  # fmt: skip
FUNCTIONS = (
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "softplus",
    "softsign", "exponential", "tanh", "sigmoid", "hard_sigmoid", "hard_silu", "softmax",
    "log_softmax",
)  # fmt: skip
NORMALIZATIONS = (
    "BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One layer behind a convolution, so that gradients pass through it."""

    layer: str
    shape: tuple[int, ...]
    settings: dict[str, Any]
    num_inputs: int = 1
    trainable: bool = True

    def __str__(self) -> str:
        settings = ",".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.layer}{len(self.shape) - 1}d({settings})".replace(" ", "")

    @property
    def is_random(self) -> bool:
        return any(self.settings.get(key) for key in ("rate", "drop_path_rate"))

    def build(self) -> KerasModule:
        rank = len(self.shape) - 1
        net = NetworkWriter("net", self.shape, "data")  # type: ignore[arg-type]
        same = {"kernel_size": [3] * rank, "padding": "same"}
        inputs = [
            net.add(f"Conv{rank}D", "data", f"before{index}", filters=self.shape[-1], **same)
            for index in range(self.num_inputs)
        ]
        settings = dict(self.settings)
        outer = {} if self.trainable else {"trainable": False}
        layer = net.add(self.layer, inputs, "layer", **settings, **outer)
        return build_module(parse_network(net.finish(layer), str(self)), self.shape)


def _cases() -> list[Case]:
    cases: list[Case] = []

    def add(
        layer: str,
        *settings: dict[str, Any],
        shapes: tuple[tuple[int, ...], ...] = (IMAGE,),
        **options: Any,
    ) -> None:
        cases.extend(Case(layer, shape, one, **options) for shape in shapes for one in settings)

    both = (IMAGE, VOLUME)
    for layer in NORMALIZATIONS:
        groups = {"groups": 2} if layer == "GroupNormalization" else {}
        for center, scale in ((True, True), (True, False), (False, True), (False, False)):
            add(layer, {**groups, "center": center, "scale": scale}, shapes=both)
    add("BatchNormalization", {"scale": False}, trainable=False)
    add("LayerNormalization", {"axis": [1, 2, 3]})
    add("LayerNormalization", {"axis": [1, 2, 3, 4]}, shapes=(VOLUME,))
    for rank, shape in ((2, IMAGE), (3, VOLUME)):
        once, twice = [1] * rank, [2] * rank
        for padding in ("same", "valid"):
            kernel = {"filters": 5, "kernel_size": [2, 3, 3][:rank], "padding": padding}
            conv = {"dilation_rate": twice, "strides": once}
            add(f"Conv{rank}D", {**kernel, "strides": twice}, {**kernel, **conv}, shapes=(shape,))
            add(
                f"Conv{rank}DTranspose",
                {**kernel, "strides": twice},
                {**kernel, **conv, "use_bias": False},
                shapes=(shape,),
            )
            for kind in ("Max", "Average"):
                add(
                    f"{kind}Pooling{rank}D",
                    {"pool_size": [3] * rank, "strides": twice, "padding": padding},
                    {"pool_size": twice, "padding": padding},
                    shapes=(shape,),
                )
        for kind in ("Max", "Average"):
            keep = ({"keepdims": True}, {"keepdims": False})
            add(f"Global{kind}Pooling{rank}D", *keep, shapes=(shape,))
        add(f"UpSampling{rank}D", {"size": [2, 3, 2][:rank]}, shapes=(shape,))
        pairs = [[1, 0], [0, 2], [1, 1]][:rank]
        add(f"ZeroPadding{rank}D", {"padding": pairs}, shapes=(shape,))
        add(f"Cropping{rank}D", {"cropping": pairs}, shapes=(shape,))
        add(f"SpatialDropout{rank}D", {"rate": 0.4}, shapes=(shape,))
    add("UpSampling2D", {"size": [2, 2], "interpolation": "bilinear"})
    add("Conv2D", {"filters": 4, "kernel_size": [3, 3], "groups": 2, "padding": "same"})
    for kind, filters in (("DepthwiseConv2D", {}), ("SeparableConv2D", {"filters": 3})):
        kernel = {"kernel_size": [3, 3], "padding": "same", "depth_multiplier": 2, **filters}
        add(kind, {**kernel, "strides": [2, 2]}, {**kernel, "dilation_rate": [2, 2]})
    for size in ((5, 13), (20, 3)):
        place = {"height": size[0], "width": size[1]}
        kinds = ({"interpolation": "nearest"}, {}, {"antialias": True})
        add("Resizing", *({**place, **kind} for kind in kinds))
    add("Activation", *({"activation": name} for name in FUNCTIONS))
    add("ReLU", {}, {"max_value": 0.7, "negative_slope": 0.1, "threshold": 0.3})
    add("LeakyReLU", {"negative_slope": 0.05})
    add("ELU", {"alpha": 0.5})
    add("PReLU", {}, {"shared_axes": [1, 2]})
    add("PReLU", {}, {"shared_axes": [1, 2, 3]}, shapes=(VOLUME,))
    add("ThresholdedReLU", {"theta": 0.2})
    add("Softmax", {"axis": -1}, {"axis": 1})
    add("Identity", {})
    add("ActivityRegularization", {})
    add("Dense", {"units": 3})
    add("Dropout", {"rate": 0.4}, {"rate": 0.0}, {"rate": 0.4, "noise_shape": [None, 1, 1, None]})
    add("StochasticDepth", {"drop_path_rate": 0.4})
    add("Rescaling", {"scale": 0.5, "offset": -1.0}, {"scale": [0.5, 1.0, 2.0, 3.0]}, shapes=both)
    add("Normalization", {}, {"mean": [0.1, 0.2, 0.3, 0.4], "variance": [1.0, 2.0, 3.0, 4.0]})
    add("LayerScale", {"init_values": 0.3, "projection_dim": 4})
    add("CustomScaleLayer", {"scale": 0.3}, num_inputs=2)
    add("Flatten", {}, shapes=both)
    add("Reshape", {"target_shape": [8, 9, 4]}, {"target_shape": [-1]})
    add("Permute", {"dims": [3, 1, 2]})
    add("Concatenate", {"axis": -1}, {"axis": 1}, num_inputs=2)
    for kind in MERGES:
        add(kind.capitalize(), {}, num_inputs=2)
    for operation in ("add", "subtract", "multiply", "divide"):
        add("Arithmetic", {"operation": operation, "right": 3.0})
        add("Arithmetic", {"operation": operation, "left": 3.0})
    return cases


CASES = _cases()
assert {case.layer for case in CASES} == set(LAYERS) - ALIASES - {"InputLayer"}
