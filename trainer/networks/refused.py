"""What of Keras is known and refused: the one list behind the errors and docs/networks.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """A setting that is not read: of which layers, which values, what to do instead."""

    layers: str
    key: str
    value: str
    remedy: str

    def message(self) -> str:
        """Return what follows the key in an error line."""
        return f"{self.remedy}; {self.value} is not supported"


LAST_AXIS = "expected the last axis, the channels'"
AXES_OF = "BatchNormalization, GroupNormalization, InstanceNormalization, Normalization"

SETTINGS: dict[str, Refusal] = {
    "data_format": Refusal(
        "all that have it",
        "data_format",
        "channels_first",
        "expected channels_last: build the network in Keras with it and write it again",
    ),
    "interpolation": Refusal(
        "UpSampling2D, Resizing",
        "interpolation",
        "anything but nearest and bilinear",
        "expected one of nearest, bilinear",
    ),
    "aspect_ratio": Refusal(
        "Resizing",
        "crop_to_aspect_ratio, pad_to_aspect_ratio",
        "true",
        "expected false: prepare the images instead",
    ),
    "padding": Refusal(
        "transposed convolutions and pooling",
        "padding",
        "anything but valid and same (a convolution takes zeros on both sides too: 1, [1, 2])",
        "expected valid or same, or a ZeroPadding layer before it",
    ),
    "dilation_rate": Refusal(
        "convolutions",
        "dilation_rate",
        "a dilation together with strides",
        "expected 1 for one of them",
    ),
    "strides": Refusal(
        "DepthwiseConv2D, SeparableConv2D", "strides", "unequal strides", "expected equal ones"
    ),
    "groups": Refusal(
        "Conv2DTranspose, Conv3DTranspose",
        "groups",
        "more than 1",
        "expected 1: Keras's transposed convolutions have no groups",
    ),
    "quantization_config": Refusal(
        "all that have it",
        "quantization_config",
        "a quantized layer",
        "expected null: save the network before it is quantized",
    ),
    "axis": Refusal(AXES_OF, "axis", "another axis than the last", LAST_AXIS),
    "axis_null": Refusal(
        "InstanceNormalization, Normalization",
        "axis",
        "null (one mean for all channels)",
        "expected -1",
    ),
    "rms_scaling": Refusal("LayerNormalization", "rms_scaling", "true", "expected false"),
    "invert": Refusal("Normalization", "invert", "true", "expected false"),
    "noise_shape": Refusal(
        "Dropout",
        "noise_shape",
        "a size other than null and 1",
        "expected null or 1 for each axis",
    ),
    "activation": Refusal(
        "all that have it",
        "activation",
        "a ReLU object with slope or threshold, or with a max_value other than 6",
        "expected a layer of its own for it",
    ),
}

# Keras 3's functions that no network met so far uses
ACTIVATIONS = (
    "celu", "glu", "hard_shrink", "hard_tanh", "log_sigmoid", "soft_shrink", "sparse_plus",
    "sparse_sigmoid", "sparsemax", "squareplus", "tanh_shrink", "threshold",
)  # fmt: skip


def documentation() -> str:
    """Return the table of docs/networks.md."""
    rows = ["| layers | setting | refused | instead |", "|---|---|---|---|"]
    rows += [
        f"| {refusal.layers} | `{refusal.key}` | {refusal.value} | {refusal.remedy} |"
        for refusal in SETTINGS.values()
    ]
    functions = ", ".join(f"`{name}`" for name in ACTIVATIONS)
    rows.append(f"| all that have it | `activation` | {functions} | one of those above |")
    return "\n".join(rows)
