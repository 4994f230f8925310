"""The names of EfficientNet-Lite's published weights, brought to those of our `efficientunet`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# as the package efficientnet_lite_pytorch names its modules
_STEM = {"_conv_stem": "stem_conv", "_bn0": "stem_bn"}
_BLOCK = re.compile(r"_blocks\.(\d+)\._(\w+)")


def with_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of an EfficientNet-Lite; any other network's stay as they are.

    Its first layer sees RGB, ours BGR: the channels of that kernel (out, in, h, w) are reversed.
    The classifier has no place in ours and keeps its names.
    """
    if "_conv_stem.weight" not in state:
        return dict(state)
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        module, _, parameter = key.rpartition(".")
        block = _BLOCK.fullmatch(module)
        ours = f"block{block[1]}_{block[2]}" if block else _STEM.get(module, module)
        renamed[f"{ours}.{parameter}"] = value.flip(1) if module == "_conv_stem" else value
    return renamed
