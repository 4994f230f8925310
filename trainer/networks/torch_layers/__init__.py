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
from trainer.networks.layers.elementwise import Dropout, Identity, PReLU, Softmax
from trainer.networks.layers.geometry import (
    Flatten,
    Padding,
    Permute,
    Reshape,
    Resizing,
    UpSampling,
)
from trainer.networks.layers.merging import Arithmetic, Concatenate, Merge
from trainer.networks.layers.normalization import BatchNorm, GroupNorm, LayerNorm
from trainer.networks.layers.pooling import GlobalPool, Pool
from trainer.networks.layers.scaling import LayerScale, Normalization, Rescaling, ScaledAdd
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
    TorchSoftmax,
)
from trainer.networks.torch_layers.geometry import (
    TorchArithmetic,
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
from trainer.networks.torch_layers.scaling import (
    TorchLayerScale,
    TorchNormalization,
    TorchRescaling,
    TorchScaledAdd,
)

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
    LayerScale: TorchLayerScale,
    Normalization: TorchNormalization,
    Rescaling: TorchRescaling,
    ScaledAdd: TorchScaledAdd,
    Softmax: TorchSoftmax,
    Flatten: TorchFlatten,
    Padding: TorchPadding,
    Permute: TorchPermute,
    Reshape: TorchReshape,
    Resizing: TorchResizing,
    UpSampling: TorchUpSampling,
    Arithmetic: TorchArithmetic,
    Concatenate: TorchConcatenate,
    Merge: TorchMerge,
    BatchNorm: TorchBatchNorm,
    GroupNorm: TorchGroupNorm,
    LayerNorm: TorchLayerNorm,
    GlobalPool: TorchGlobalPool,
    Pool: TorchPool,
}
