"""FCN-8s over VGG-16 (Long, Shelhamer, Darrell 2015, arXiv 1411.4038).

The convolutions have the names of Keras's VGG16, so that its ImageNet weights match. Differs
from the paper in padding (`same`, instead of 100 pixels and a crop) and in upsampling, which is
bilinear throughout, where the paper starts there and lets the inner two learn.
"""

from __future__ import annotations

from typing import Any

from trainer.networks.builtin.writer import NetworkWriter, final_function, small_classifier

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # VGG-16: filters, convolutions


def write_fcn8s(
    input_shape: tuple[int, int, int], num_classes: int, fc: int = 4096
) -> dict[str, Any]:
    """Write the network; height and width must be multiples of 32. `fc`: width of fc6 and fc7."""
    net = NetworkWriter("fcn8s", input_shape, "input_1")
    relu: dict[str, Any] = {"use_bias": True, "activation": "relu"}
    x, pools = "input_1", []
    for block, (filters, num_convs) in enumerate(BLOCKS, start=1):
        for number in range(1, num_convs + 1):
            x = net.conv(x, f"block{block}_conv{number}", filters, **relu)
        x = net.add("MaxPooling2D", x, f"block{block}_pool", pool_size=[2, 2], strides=[2, 2])
        pools.append(x)
    x = net.conv(x, "fc6", fc, 7, **relu)
    x = net.add("Dropout", x, "drop6", rate=0.5)
    x = net.conv(x, "fc7", fc, 1, **relu)
    x = net.add("Dropout", x, "drop7", rate=0.5)
    x = small_classifier(net, x, "score_fr", num_classes)
    for pool in (4, 3):
        x = net.upsample(x, f"upscore_pool{pool}", "bilinear")
        skip = small_classifier(net, pools[pool - 1], f"score_pool{pool}", num_classes)
        x = net.add("Add", [x, skip], f"fuse_pool{pool}")
    x = net.upsample(x, "upscore8", "bilinear", 8)
    function = final_function(num_classes)
    return net.finish(net.activation(x, function, function))
