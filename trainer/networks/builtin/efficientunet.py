"""A U-Net whose encoder is EfficientNet-Lite, so that it can start from ImageNet on a CPU.

Encoder: EfficientNet (Tan and Le 2019, arXiv 1905.11946) without squeeze-and-excitation and with
ReLU6, as Google published it in 2020 for phones; an eleventh of `resunet`'s multiplications.
The network takes the engine's own images (BGR, 0 to 1) and scales them as the weights expect, so
no transform has to be set; `trainer.networks.efficientnet_lite` brings the weights into that order
and under these names. Decoder: as in `unet`; it ends at half the image's size, whose logits are
upsampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from trainer.networks.builtin.writer import NetworkWriter, final_function


@dataclass(frozen=True)
class Stage:
    """Blocks of one size: how many, kernel, the first's stride, expansion, filters."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int


# of EfficientNet-B0, from which all others are scaled
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))  # width and depth of Lite 0, 1 and 2
STEM_FILTERS = 32
DECODER_FILTERS = (96, 64, 32, 24)
# An average of about 50 batches: EfficientNet's own 0.99 needs hundreds of steps, see `unet`.
MOMENTUM = 0.98
MEAN, STD = 127, 128  # of the 8-bit values that the published weights were trained on


def write_efficientunet(
    input_shape: tuple[int, int, int], num_classes: int, lite: int = 0
) -> dict[str, Any]:
    """Write the network; height and width must be multiples of 32 to run."""
    width, depth = SCALES[lite]
    net = NetworkWriter(f"efficientunet_lite{lite}", input_shape, "data")
    x = net.add("Rescaling", "data", "rescaling", scale=255 / STD, offset=-MEAN / STD)
    x = net.conv(x, "stem_conv", STEM_FILTERS, strides=[2, 2])
    x = _normalized(net, x, "stem_bn")
    filters, number = STEM_FILTERS, 0
    skips: list[str] = []
    for stage in STAGES:
        if stage.stride == 2:
            skips.append(x)
        wanted = _scaled_filters(stage.filters, width)
        # the first and the last stage of the Lite networks keep their depth
        fixed = stage in (STAGES[0], STAGES[-1])
        for repeat in range(stage.repeats if fixed else math.ceil(stage.repeats * depth)):
            stride = stage.stride if repeat == 0 else 1
            x = _block(net, x, f"block{number}_", stage, stride, filters, wanted)
            filters, number = wanted, number + 1
    for level, (skip, wanted) in enumerate(zip(reversed(skips), DECODER_FILTERS, strict=True)):
        prefix = f"decoder{level}_"
        x = _conv_bn_relu(net, x, prefix + "reduce", wanted, 1)
        x = net.upsample(x, prefix + "upsampling")
        x = net.concat([x, skip], prefix + "concat")
        x = _conv_bn_relu(net, x, prefix + "merge", wanted, 3)
    x = net.conv(
        x, "final_conv", num_classes, 1, use_bias=True, kernel_initializer="glorot_uniform"
    )
    x = net.upsample(x, "final_upsampling", "bilinear")
    function = final_function(num_classes)
    return net.finish(net.activation(x, function, function))


def _scaled_filters(filters: int, width: float) -> int:
    """Scale to the nearest multiple of 8 that is not smaller by more than a tenth."""
    scaled = max(8, int(filters * width + 4) // 8 * 8)
    return scaled + 8 if scaled < 0.9 * filters * width else scaled


def _block(
    net: NetworkWriter, x: str, prefix: str, stage: Stage, stride: int, filters: int, wanted: int
) -> str:
    """Add an inverted residual block: expand, filter each channel, project."""
    shortcut = x
    if stage.expansion > 1:
        x = net.conv(x, prefix + "expand_conv", filters * stage.expansion, 1)
        x = _normalized(net, x, prefix + "bn0")
    x = net.add(
        "DepthwiseConv2D",
        x,
        prefix + "depthwise_conv",
        kernel_size=[stage.kernel] * 2,
        strides=[stride] * 2,
        padding="same",
        data_format="channels_last",
        depth_multiplier=1,
        activation="linear",
        use_bias=False,
        depthwise_initializer="he_uniform",
    )
    x = _normalized(net, x, prefix + "bn1")
    x = net.conv(x, prefix + "project_conv", wanted, 1)
    x = net.batch_norm(x, prefix + "bn2", momentum=MOMENTUM)
    if stride == 1 and filters == wanted:
        x = net.add("Add", [x, shortcut], prefix + "add")
    return x


def _normalized(net: NetworkWriter, x: str, name: str) -> str:
    x = net.batch_norm(x, name, momentum=MOMENTUM)
    return net.add("ReLU", x, f"{name}_relu6", max_value=6.0)


def _conv_bn_relu(net: NetworkWriter, x: str, prefix: str, filters: int, kernel: int) -> str:
    x = net.conv(x, f"{prefix}_conv", filters, kernel, kernel_initializer="he_normal")
    x = net.batch_norm(x, f"{prefix}_bn", momentum=MOMENTUM)
    return net.activation(x, f"{prefix}_relu")
