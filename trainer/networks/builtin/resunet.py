"""A U-Net whose encoder is the pre-activated ResNet-50 (He et al. 2016, arXiv 1603.05027).

Names and settings are those that such Keras networks have, so that their `.h5` weights match
by name. 231 layers; 32,513,556 trainable parameters for 3 channels and 1 class.
"""

from __future__ import annotations

from typing import Any

from trainer.networks.builtin.writer import NetworkWriter, final_function

UNITS = (3, 4, 6, 3)
DECODER_FILTERS = (256, 128, 64, 32, 16)
EPSILON = 2e-5  # the encoder family's; the decoder has Keras's default


def write_resunet(input_shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    """Write the network; height and width must be multiples of 32 to run."""
    net = NetworkWriter("resunet", input_shape, "data")
    x = net.batch_norm("data", "bn_data", epsilon=EPSILON, scale=False)
    x = net.add("ZeroPadding2D", x, padding=[[3, 3], [3, 3]], data_format="channels_last")
    x = net.conv(x, "conv0", 64, 7, strides=[2, 2], padding="valid")
    x = net.batch_norm(x, "bn0", epsilon=EPSILON)
    x = net.activation(x, "relu0")
    x = net.add("ZeroPadding2D", x, padding=[[1, 1], [1, 1]], data_format="channels_last")
    x = net.add(
        "MaxPooling2D",
        x,
        "pooling0",
        pool_size=[3, 3],
        strides=[2, 2],
        padding="valid",
        data_format="channels_last",
    )
    for stage, num_units in enumerate(UNITS):
        for unit in range(num_units):
            stride = 2 if stage > 0 and unit == 0 else 1
            prefix = f"stage{stage + 1}_unit{unit + 1}_"
            x = _unit(net, x, prefix, 64 * 2**stage, stride, project=unit == 0)
    x = net.batch_norm(x, "bn1", epsilon=EPSILON)
    x = net.activation(x, "relu1")
    skips = ["stage4_unit1_relu1", "stage3_unit1_relu1", "stage2_unit1_relu1", "relu0", ""]
    for stage, (skip, filters) in enumerate(zip(skips, DECODER_FILTERS, strict=True)):
        x = net.upsample(x, f"decoder_stage{stage}_upsampling")
        if skip:
            x = net.concat([x, skip], f"decoder_stage{stage}_concat")
        for half in "ab":
            prefix = f"decoder_stage{stage}{half}_"
            x = net.conv(x, prefix + "conv", filters)
            x = net.batch_norm(x, prefix + "bn")
            x = net.activation(x, prefix + "relu")
    x = net.conv(x, "final_conv", num_classes, use_bias=True, kernel_initializer="glorot_uniform")
    function = final_function(num_classes)
    return net.finish(net.activation(x, function, function))


def _unit(
    net: NetworkWriter, x: str, prefix: str, filters: int, stride: int, project: bool
) -> str:
    """Add a bottleneck unit: three convolutions, each behind its normalization and ReLU."""
    shortcut = x
    x = net.batch_norm(x, prefix + "bn1", epsilon=EPSILON)
    x = net.activation(x, prefix + "relu1")
    if project:
        shortcut = net.conv(
            x, prefix + "sc", 4 * filters, 1, strides=[stride, stride], padding="valid"
        )
    x = net.conv(x, prefix + "conv1", filters, 1, padding="valid")
    x = net.batch_norm(x, prefix + "bn2", epsilon=EPSILON)
    x = net.activation(x, prefix + "relu2")
    x = net.add("ZeroPadding2D", x, padding=[[1, 1], [1, 1]], data_format="channels_last")
    x = net.conv(x, prefix + "conv2", filters, 3, strides=[stride, stride], padding="valid")
    x = net.batch_norm(x, prefix + "bn3", epsilon=EPSILON)
    x = net.activation(x, prefix + "relu3")
    x = net.conv(x, prefix + "conv3", 4 * filters, 1, padding="valid")
    return net.add("Add", [x, shortcut])
