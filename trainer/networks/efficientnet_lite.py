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

    Its first layer sees RGB, ours BGR: the channels of that kernel (out, 3, h, w) are reversed.
    The classifier has no place in ours and keeps its names, and so do the parameters of an
    EfficientNet with squeeze-and-excitation: the same layers mean something else there. No
    module of ours has a name that begins with an underscore.
    """
    if "_conv_stem.weight" not in state or any("._se_" in key for key in state):
        return dict(state)
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        module, _, parameter = key.rpartition(".")
        block = _BLOCK.fullmatch(module)
        ours = f"block{block[1]}_{block[2]}" if block else _STEM.get(module, module)
        is_kernel = module == "_conv_stem" and value.ndim == 4 and value.shape[1] == 3
        renamed[f"{ours}.{parameter}"] = (
            value.flip(1) if is_kernel and _is_stored(value) else value
        )
    return renamed


def _is_stored(value: Tensor) -> bool:
    """Tell a tensor that is whole in its file from a crafted one, whose copy fills the memory."""
    return value.nbytes <= value.untyped_storage().nbytes()
