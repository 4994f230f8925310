"""The registry of layers: Keras's class names and what reads each one's settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from trainer.networks.config import Config
from trainer.networks.layers.convolution import (
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    SeparableConv,
)
from trainer.networks.layers.elementwise import (
    Dropout,
    Identity,
    Input,
    PReLU,
    Softmax,
    read_activation,
    read_activity_regularization,
    read_elu,
    read_leaky_relu,
    read_relu,
    read_stochastic_depth,
    read_thresholded_relu,
)
from trainer.networks.layers.geometry import (
    Flatten,
    Padding,
    Permute,
    Reshape,
    Resizing,
    UpSampling,
)
from trainer.networks.layers.merging import MERGES, Arithmetic, Concatenate, Merge
from trainer.networks.layers.normalization import BatchNorm, GroupNorm, LayerNorm
from trainer.networks.layers.pooling import GlobalPool, Pool
from trainer.networks.layers.scaling import LayerScale, Normalization, Rescaling, ScaledAdd
from trainer.networks.spec import LayerSpec

LAYERS: dict[str, Callable[[Config], LayerSpec]] = {
    "InputLayer": Input.read,
    "Dense": Dense.read,
    "BatchNormalization": BatchNorm.read,
    "BatchNormalizationV1": BatchNorm.read,
    "BatchNormalizationV2": BatchNorm.read,
    "SyncBatchNormalization": BatchNorm.read,
    "InstanceNormalization": partial(GroupNorm.read, instance=True),
    "GroupNormalization": partial(GroupNorm.read, instance=False),
    "LayerNormalization": LayerNorm.read,
    "Activation": read_activation,
    "ReLU": read_relu,
    "LeakyReLU": read_leaky_relu,
    "ELU": read_elu,
    "PReLU": PReLU.read,
    "ThresholdedReLU": read_thresholded_relu,
    "Softmax": Softmax.read,
    "Identity": Identity.read,
    "ActivityRegularization": read_activity_regularization,
    "Dropout": Dropout.read,
    "Rescaling": Rescaling.read,
    "Normalization": Normalization.read,
    "LayerScale": LayerScale.read,
    "StochasticDepth": read_stochastic_depth,
    "CustomScaleLayer": ScaledAdd.read,
    "Resizing": Resizing.read,
    "Flatten": Flatten.read,
    "Reshape": Reshape.read,
    "Permute": Permute.read,
    "Concatenate": Concatenate.read,
    "Arithmetic": Arithmetic.read,  # not Keras's: an operation with a number (keras_ops.py)
    **{kind.capitalize(): partial(Merge.read, kind=kind) for kind in MERGES},
    "Conv2D": partial(Conv.read, rank=2),
    "Conv3D": partial(Conv.read, rank=3),
    "Convolution2D": partial(Conv.read, rank=2),
    "Convolution3D": partial(Conv.read, rank=3),
    "Conv2DTranspose": partial(ConvTranspose.read, rank=2),
    "Conv3DTranspose": partial(ConvTranspose.read, rank=3),
    "DepthwiseConv2D": partial(DepthwiseConv.read, rank=2),
    "SeparableConv2D": partial(SeparableConv.read, rank=2),
    "MaxPooling2D": partial(Pool.read, rank=2, maximum=True),
    "MaxPooling3D": partial(Pool.read, rank=3, maximum=True),
    "AveragePooling2D": partial(Pool.read, rank=2, maximum=False),
    "AveragePooling3D": partial(Pool.read, rank=3, maximum=False),
    "GlobalMaxPooling2D": partial(GlobalPool.read, rank=2, maximum=True),
    "GlobalMaxPooling3D": partial(GlobalPool.read, rank=3, maximum=True),
    "GlobalAveragePooling2D": partial(GlobalPool.read, rank=2, maximum=False),
    "GlobalAveragePooling3D": partial(GlobalPool.read, rank=3, maximum=False),
    "UpSampling2D": partial(UpSampling.read, rank=2),
    "UpSampling3D": partial(UpSampling.read, rank=3),
    "ZeroPadding2D": partial(Padding.read, rank=2, sign=1),
    "ZeroPadding3D": partial(Padding.read, rank=3, sign=1),
    "Cropping2D": partial(Padding.read, rank=2, sign=-1),
    "Cropping3D": partial(Padding.read, rank=3, sign=-1),
    "SpatialDropout2D": partial(Dropout.read, whole_channels=True),
    "SpatialDropout3D": partial(Dropout.read, whole_channels=True),
}
