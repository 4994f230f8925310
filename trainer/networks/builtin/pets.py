"""The Xception-style U-Net of the Oxford-pets tutorial (keras.io/examples/vision).

Layers have Keras's default names, as a network built in a fresh session has, so that weights
of the tutorial match. 2,055,203 trainable parameters for 3 channels and 3 classes.
"""

from __future__ import annotations

from typing import Any

from trainer.networks.builtin.writer import NetworkWriter, final_function

GLOROT: dict[str, Any] = {"use_bias": True, "kernel_initializer": "glorot_uniform"}


def write_pets(input_shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    """Write the network; height and width must be multiples of 16 to run."""
    net = NetworkWriter("pets_unet", input_shape, "input_1")
    x = net.conv("input_1", None, 32, strides=[2, 2], **GLOROT)
    x = previous = net.activation(net.batch_norm(x), None)
    for filters in (64, 128, 256):
        for _ in range(2):
            x = net.activation(x, None)
            x = net.add("SeparableConv2D", x, filters=filters, kernel_size=[3, 3], padding="same")
            x = net.batch_norm(x)
        x = net.add("MaxPooling2D", x, pool_size=[3, 3], strides=[2, 2], padding="same")
        residual = net.conv(previous, None, filters, 1, strides=[2, 2], **GLOROT)
        x = previous = net.add("Add", [x, residual])
    for filters in (256, 128, 64, 32):
        for _ in range(2):
            x = net.activation(x, None)
            x = net.add("Conv2DTranspose", x, filters=filters, kernel_size=[3, 3], padding="same")
            x = net.batch_norm(x)
        x = net.upsample(x, None)
        residual = net.conv(net.upsample(previous, None), None, filters, 1, **GLOROT)
        x = previous = net.add("Add", [x, residual])
    function = final_function(num_classes)
    return net.finish(net.conv(x, None, num_classes, activation=function, **GLOROT))
