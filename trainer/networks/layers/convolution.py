"""Convolutions and Dense: settings, shapes, weights (https://keras.io/api/layers/)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.networks.config import Config
from trainer.networks.spec import (
    GLOROT_UNIFORM,
    ZEROS,
    Initializer,
    LayerSpec,
    Shape,
    ShapeError,
    Weight,
    bounded,
    describe,
    expect_rank,
    positive,
)


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Return the zeros before and after that TensorFlow's `same` puts on one axis."""
    reach = (kernel - 1) * dilation + 1
    total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def output_length(size: int, kernel: int, stride: int, dilation: int, same: bool) -> int:
    """Return the length of a convolution's or pooling's output along one axis."""
    if same:
        return math.ceil(size / stride)
    return (size - (kernel - 1) * dilation - 1) // stride + 1


@dataclass(frozen=True, kw_only=True)
class Window(LayerSpec):
    """What a kernel that slides over the spatial axes has: size, stride, dilation, padding."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    same: bool
    pads: tuple[int, ...] = ()  # zeros on both sides of each axis, in the place of `same`

    @property
    def rank(self) -> int:
        return len(self.kernel)

    def reach(self, axis: int) -> int:
        """Return how many pixels the dilated kernel spans along a spatial axis."""
        return (self.kernel[axis] - 1) * self.dilation[axis] + 1

    def spatial_shape(self, shape: Shape) -> Shape:
        expect_rank(shape, self.rank)
        if self.pads:
            margins = (n + 2 * pad for n, pad in zip(shape, self.pads, strict=False))
            shape = (*margins, shape[-1])
        bounded(tuple(n + self.reach(axis) - 1 for axis, n in enumerate(shape[:-1])), shape)
        sizes = zip(shape, self.kernel, self.strides, self.dilation, strict=False)
        return positive(tuple(output_length(*size, self.same) for size in sizes), shape)


def read_window(config: Config, rank: int) -> tuple[tuple[int, ...], ...]:
    """Read kernel, strides and dilation; Keras takes no stride together with a dilation."""
    config.channels_last()
    kernel = config.integers("kernel_size", rank)
    strides = config.integers("strides", rank, 1)
    dilation = config.integers("dilation_rate", rank, 1)
    if max(strides) > 1 and max(dilation) > 1:
        raise config.refusal("dilation_rate")
    return kernel, strides, dilation


def read_padding(config: Config) -> bool:
    """Tell whether the padding is `same` (else `valid`)."""
    value = config.get("padding", "valid")
    if not isinstance(value, str) or value.lower() not in ("valid", "same"):
        raise config.refusal("padding")
    return value.lower() == "same"


def read_pads(config: Config, rank: int) -> tuple[int, ...]:
    """Return zeros on both sides of each axis: a number, or one for each, beside Keras's words."""
    if isinstance(config.get("padding", "valid"), str):
        return ()
    return config.integers("padding", rank, minimum=0)


@dataclass(frozen=True, kw_only=True)
class Conv(Window):
    """Conv2D, Conv3D: kernel (k…, in / groups, out) in Keras, (out, in / groups, k…) in torch."""

    filters: int
    groups: int
    use_bias: bool
    kernel_init: Initializer
    bias_init: Initializer

    @classmethod
    def read(cls, config: Config, rank: int) -> Conv:
        kernel, strides, dilation = read_window(config, rank)
        filters = config.integer("filters")
        groups = config.integer("groups", 1)
        if filters % groups:
            raise config.error("filters", f"{filters} is no multiple of groups {groups}")
        return cls(
            kernel=kernel,
            strides=strides,
            dilation=dilation,
            same=False if (pads := read_pads(config, rank)) else read_padding(config),
            pads=pads,
            filters=filters,
            groups=groups,
            use_bias=config.boolean("use_bias", True),
            kernel_init=config.initializer("kernel_initializer", GLOROT_UNIFORM),
            bias_init=config.initializer("bias_initializer", ZEROS),
            activation=config.activation(),
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        spatial = self.spatial_shape(shapes[0])
        if shapes[0][-1] % self.groups:
            raise ShapeError(
                f"its {self.groups} groups do not divide the {shapes[0][-1]} input channels"
            )
        return (*spatial, self.filters)

    def weights(self, *shapes: Shape) -> tuple[Weight, ...]:
        shape = (*self.kernel, shapes[0][-1] // self.groups, self.filters)
        rank = self.rank
        axes = (rank + 1, rank, *range(rank))
        kernel = Weight("kernel", shape, "weight", self.kernel_init, axes)
        return (kernel, *bias(self.use_bias, self.filters, self.bias_init))


@dataclass(frozen=True, kw_only=True)
class ConvTranspose(Window):
    """Conv2DTranspose, Conv3DTranspose: kernel (k…, out, in) in Keras, (in, out, k…) in torch."""

    filters: int
    output_padding: tuple[int, ...] | None
    use_bias: bool
    kernel_init: Initializer
    bias_init: Initializer

    @classmethod
    def read(cls, config: Config, rank: int) -> ConvTranspose:
        kernel, strides, dilation = read_window(config, rank)
        output_padding = None
        if config.get("output_padding") is not None:
            output_padding = config.integers("output_padding", rank, minimum=0)
            if any(p >= s for p, s in zip(output_padding, strides, strict=True)):
                raise config.error(
                    "output_padding",
                    f"{list(output_padding)} must be below the strides {list(strides)}",
                )
        if config.integer("groups", 1) != 1:
            raise config.refusal("groups")
        return cls(
            kernel=kernel,
            strides=strides,
            dilation=dilation,
            same=read_padding(config),
            filters=config.integer("filters"),
            output_padding=output_padding,
            use_bias=config.boolean("use_bias", True),
            kernel_init=config.initializer("kernel_initializer", GLOROT_UNIFORM),
            bias_init=config.initializer("bias_initializer", ZEROS),
            activation=config.activation(),
        )

    def output_length(self, axis: int, size: int) -> int:
        """Return the output's length along a spatial axis, as Keras computes it."""
        stride = self.strides[axis]
        reach = self.reach(axis)
        if self.output_padding is None:
            return size * stride + (0 if self.same else max(reach - stride, 0))
        crop = 2 * (reach // 2) if self.same else 0
        return (size - 1) * stride + reach - crop + self.output_padding[axis]

    def crop_before(self, axis: int, size: int) -> int:
        """Return how much of the full result is cut at the front (TensorFlow's rule)."""
        if not self.same:
            return 0
        reach = self.reach(axis)
        full = (size - 1) * self.strides[axis] + reach
        return max(full - self.output_length(axis, size), 0) // 2

    def output_shape(self, *shapes: Shape) -> Shape:
        expect_rank(shapes[0], self.rank)
        full = (
            n * s + self.reach(i)
            for i, (n, s) in enumerate(zip(shapes[0], self.strides, strict=False))
        )
        bounded(tuple(full), shapes[0])
        sizes = (self.output_length(axis, size) for axis, size in enumerate(shapes[0][:-1]))
        return (*positive(tuple(sizes), shapes[0]), self.filters)

    def weights(self, *shapes: Shape) -> tuple[Weight, ...]:
        shape = (*self.kernel, self.filters, shapes[0][-1])
        rank = self.rank
        axes = (rank + 1, rank, *range(rank))
        kernel = Weight("kernel", shape, "weight", self.kernel_init, axes)
        return (kernel, *bias(self.use_bias, self.filters, self.bias_init))


@dataclass(frozen=True, kw_only=True)
class DepthwiseConv(Window):
    """DepthwiseConv2D: kernel (k…, in, multiplier) in Keras, (in × multiplier, 1, k…) in torch."""

    multiplier: int
    use_bias: bool
    kernel_init: Initializer
    bias_init: Initializer

    @classmethod
    def read(cls, config: Config, rank: int) -> DepthwiseConv:
        kernel, strides, dilation = read_window(config, rank)
        if len(set(strides)) > 1:
            raise config.refusal("strides")
        return cls(
            kernel=kernel,
            strides=strides,
            dilation=dilation,
            same=False if (pads := read_pads(config, rank)) else read_padding(config),
            pads=pads,
            multiplier=config.integer("depth_multiplier", 1),
            use_bias=config.boolean("use_bias", True),
            kernel_init=config.initializer("depthwise_initializer", GLOROT_UNIFORM),
            bias_init=config.initializer("bias_initializer", ZEROS),
            activation=config.activation(),
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*self.spatial_shape(shapes[0]), shapes[0][-1] * self.multiplier)

    def weights(self, *shapes: Shape) -> tuple[Weight, ...]:
        channels = shapes[0][-1]
        return (
            depthwise_kernel(self, channels, self.multiplier, self.kernel_init, "weight"),
            *bias(self.use_bias, channels * self.multiplier, self.bias_init),
        )


@dataclass(frozen=True, kw_only=True)
class SeparableConv(Window):
    """SeparableConv2D: a depthwise convolution, then one of 1x1."""

    filters: int
    multiplier: int
    use_bias: bool
    depthwise_init: Initializer
    pointwise_init: Initializer
    bias_init: Initializer

    @classmethod
    def read(cls, config: Config, rank: int) -> SeparableConv:
        kernel, strides, dilation = read_window(config, rank)
        if len(set(strides)) > 1:
            raise config.refusal("strides")
        return cls(
            kernel=kernel,
            strides=strides,
            dilation=dilation,
            same=False if (pads := read_pads(config, rank)) else read_padding(config),
            pads=pads,
            filters=config.integer("filters"),
            multiplier=config.integer("depth_multiplier", 1),
            use_bias=config.boolean("use_bias", True),
            depthwise_init=config.initializer("depthwise_initializer", GLOROT_UNIFORM),
            pointwise_init=config.initializer("pointwise_initializer", GLOROT_UNIFORM),
            bias_init=config.initializer("bias_initializer", ZEROS),
            activation=config.activation(),
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*self.spatial_shape(shapes[0]), self.filters)

    def weights(self, *shapes: Shape) -> tuple[Weight, ...]:
        channels, rank = shapes[0][-1], self.rank
        pointwise = (*(1,) * rank, channels * self.multiplier, self.filters)
        axes = (rank + 1, rank, *range(rank))
        return (
            depthwise_kernel(
                self, channels, self.multiplier, self.depthwise_init, "depthwise_weight"
            ),
            Weight("pointwise_kernel", pointwise, "pointwise_weight", self.pointwise_init, axes),
            *bias(self.use_bias, self.filters, self.bias_init),
        )


@dataclass(frozen=True, kw_only=True)
class Dense(LayerSpec):
    """Dense over the last axis: kernel (in, out) in Keras, (out, in) in torch."""

    units: int
    use_bias: bool
    kernel_init: Initializer
    bias_init: Initializer

    @classmethod
    def read(cls, config: Config) -> Dense:
        return cls(
            units=config.integer("units"),
            use_bias=config.boolean("use_bias", True),
            kernel_init=config.initializer("kernel_initializer", GLOROT_UNIFORM),
            bias_init=config.initializer("bias_initializer", ZEROS),
            activation=config.activation(),
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        if not shapes[0]:
            raise ShapeError(f"expected features to work on, received {describe(shapes[0])}")
        return (*shapes[0][:-1], self.units)

    def weights(self, *shapes: Shape) -> tuple[Weight, ...]:
        shape = (shapes[0][-1], self.units)
        kernel = Weight("kernel", shape, "weight", self.kernel_init, (1, 0))
        return (kernel, *bias(self.use_bias, self.units, self.bias_init))


def bias(use_bias: bool, channels: int, init: Initializer) -> tuple[Weight, ...]:
    return (Weight("bias", (channels,), "bias", init),) if use_bias else ()


def depthwise_kernel(
    window: Window, channels: int, multiplier: int, init: Initializer, torch_name: str
) -> Weight:
    rank = window.rank
    return Weight(
        "depthwise_kernel",
        (*window.kernel, channels, multiplier),
        torch_name,
        init,
        axes=(rank, rank + 1, *range(rank)),
        merged_shape=(channels * multiplier, 1, *window.kernel),
        aliases=("kernel",),  # Keras 3's name in DepthwiseConv2D
    )
