"""The registry of torch layers: which module computes each kind of settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from trainer.networks.layers.convolution import (
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    SeparableConv,
)
from trainer.networks.layers.elementwise import Dropout, Identity, PReLU, Rescaling, Softmax
from trainer.networks.layers.geometry import (
    Flatten,
    Padding,
    Permute,
    Reshape,
    Resizing,
    UpSampling,
)
from trainer.networks.layers.merging import Concatenate, Merge
from trainer.networks.layers.normalization import BatchNorm, GroupNorm, LayerNorm
from trainer.networks.layers.pooling import GlobalPool, Pool
from trainer.networks.spec import LayerSpec
from trainer.networks.torch_layers.convolution import (
    TorchConv,
    TorchConvTranspose,
    TorchDense,
    TorchDepthwiseConv,
    TorchSeparableConv,
)
from trainer.networks.torch_layers.elementwise import (
    TorchDropout,
    TorchIdentity,
    TorchPReLU,
    TorchRescaling,
    TorchSoftmax,
)
from trainer.networks.torch_layers.geometry import (
    TorchConcatenate,
    TorchFlatten,
    TorchMerge,
    TorchPadding,
    TorchPermute,
    TorchReshape,
    TorchResizing,
    TorchUpSampling,
)
from trainer.networks.torch_layers.normalization import (
    TorchBatchNorm,
    TorchGroupNorm,
    TorchLayerNorm,
)
from trainer.networks.torch_layers.pooling import TorchGlobalPool, TorchPool

# each takes (settings, shapes of the inputs, trainable)
BUILDERS: dict[type[LayerSpec], Callable[[Any, Any, bool], nn.Module]] = {
    Conv: TorchConv,
    ConvTranspose: TorchConvTranspose,
    Dense: TorchDense,
    DepthwiseConv: TorchDepthwiseConv,
    SeparableConv: TorchSeparableConv,
    Dropout: TorchDropout,
    Identity: TorchIdentity,
    PReLU: TorchPReLU,
    Rescaling: TorchRescaling,
    Softmax: TorchSoftmax,
    Flatten: TorchFlatten,
    Padding: TorchPadding,
    Permute: TorchPermute,
    Reshape: TorchReshape,
    Resizing: TorchResizing,
    UpSampling: TorchUpSampling,
    Concatenate: TorchConcatenate,
    Merge: TorchMerge,
    BatchNorm: TorchBatchNorm,
    GroupNorm: TorchGroupNorm,
    LayerNorm: TorchLayerNorm,
    GlobalPool: TorchGlobalPool,
    Pool: TorchPool,
}
