"""FCN-AlexNet, as the DIGITS tutorials have it (Long, Shelhamer, Darrell 2015, arXiv 1411.4038).

Layers have the names of Caffe's AlexNet, and convolutions 2, 4 and 5 its two groups (Krizhevsky et
al. 2012: one for each of two GPUs). Differs from theirs in padding (`same`, instead of 100 pixels
and a crop) and in having no local response normalization, which Keras lacks and later networks
dropped (Simonyan and Zisserman 2015, section 4.1, found no gain).
"""

from __future__ import annotations

from typing import Any

from trainer.networks.builtin.writer import NetworkWriter, final_function, small_classifier

# name, filters, kernel, stride, groups, pooled afterwards
CONVOLUTIONS = (
    ("conv1", 96, 11, 4, 1, True),
    ("conv2", 256, 5, 1, 2, True),
    ("conv3", 384, 3, 1, 1, False),
    ("conv4", 384, 3, 1, 2, False),
    ("conv5", 256, 3, 1, 2, True),
)


def write_fcn_alexnet(
    input_shape: tuple[int, int, int], num_classes: int, fc: int = 4096
) -> dict[str, Any]:
    """Write the network; height and width must be multiples of 32. `fc`: width of fc6 and fc7."""
    net = NetworkWriter("fcn_alexnet", input_shape, "data")
    relu: dict[str, Any] = {"use_bias": True, "activation": "relu"}
    x = "data"
    for name, filters, kernel, stride, groups, is_pooled in CONVOLUTIONS:
        strides = [stride, stride]
        x = net.conv(x, name, filters, kernel, strides=strides, groups=groups, **relu)
        if is_pooled:
            pool: dict[str, Any] = {"pool_size": [3, 3], "strides": [2, 2], "padding": "same"}
            x = net.add("MaxPooling2D", x, name.replace("conv", "pool"), **pool)
    x = net.conv(x, "fc6", fc, 6, **relu)
    x = net.add("Dropout", x, "drop6", rate=0.5)
    x = net.conv(x, "fc7", fc, 1, **relu)
    x = net.add("Dropout", x, "drop7", rate=0.5)
    x = small_classifier(net, x, "score_fr", num_classes)
    x = net.upsample(x, "upscore", "bilinear", 32)
    function = final_function(num_classes)
    return net.finish(net.activation(x, function, function))
