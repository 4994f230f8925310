"""Three networks of a chest X-ray course: a small FCN, a larger one, and a light U-Net.

For one channel and 6 classes they have 63,686, 973,574 and 3,873,094 parameters. Each group is
a 3x3 convolution with bias, an instance normalization without gamma and beta (written as a
GroupNormalization of one channel a group, which Keras itself has), and a LeakyReLU. Strided
convolutions are padded on both sides, as in torch, where the course is taught.
"""

from __future__ import annotations

from typing import Any

from trainer.networks.builtin.writer import NetworkWriter, final_function

EPSILON = 1e-5  # torch's InstanceNorm2d
SLOPE = 0.01  # torch's LeakyReLU; as a ReLU, whose setting has one name in Keras 2 and 3
START: dict[str, Any] = {"use_bias": True, "kernel_initializer": "he_uniform"}


def write_fcn(
    input_shape: tuple[int, int, int], num_classes: int, width: int = 16
) -> dict[str, Any]:
    """Write an FCN that predicts at a quarter of the size, then upsamples (multiples of 4)."""
    net = NetworkWriter(f"fcn_w{width}", input_shape, "image")
    x = "image"
    for number, (factor, stride) in enumerate(((1, 2), (2, 2), (4, 1), (4, 1)), start=1):
        x = _group(net, x, f"group{number}", width * factor, stride)
    x = net.conv(x, "classifier", num_classes, **START)
    x = net.upsample(x, "upsampling", "bilinear", 4)
    function = final_function(num_classes)
    return net.finish(net.activation(x, function, function))


def write_large_fcn(input_shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    """Write the FCN at four times the width."""
    return write_fcn(input_shape, num_classes, width=64)


def write_light_unet(input_shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    """Write the U-Net: four encoder blocks, three decoder blocks (multiples of 8)."""
    net = NetworkWriter("light_unet", input_shape, "image")
    x = "image"
    skips = []
    for number, (filters, stride) in enumerate(((64, 1), (128, 2), (256, 2), (512, 2)), start=1):
        x = _group(net, x, f"encoder{number}", filters, stride)
        skips.append(x)
    for number, filters in ((3, 256), (2, 128), (1, 64)):
        x = net.upsample(x, f"decoder{number}_upsampling", "bilinear")
        x = net.concat([x, skips[number - 1]], f"decoder{number}_concat")
        x = _group(net, x, f"decoder{number}", filters, 1)
    x = net.conv(x, "classifier", num_classes, 1, **START)
    function = final_function(num_classes)
    return net.finish(net.activation(x, function, function))


def _group(net: NetworkWriter, x: str, prefix: str, filters: int, stride: int) -> str:
    if stride == 1:
        x = net.conv(x, f"{prefix}_conv", filters, **START)
    else:
        x = net.add("ZeroPadding2D", x, f"{prefix}_pad", padding=[[1, 1], [1, 1]])
        settings: dict[str, Any] = {**START, "strides": [stride, stride], "padding": "valid"}
        x = net.conv(x, f"{prefix}_conv", filters, **settings)
    x = net.add(
        "GroupNormalization",
        x,
        f"{prefix}_norm",
        groups=-1,
        epsilon=EPSILON,
        center=False,
        scale=False,
    )
    return net.add("ReLU", x, f"{prefix}_relu", negative_slope=SLOPE)
