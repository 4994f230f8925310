"""Normalizations: settings, shapes, weights."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.networks.config import Config, show
from trainer.networks.refused import LAST_AXIS
from trainer.networks.spec import (
    ONES,
    ZEROS,
    Initializer,
    LayerSpec,
    Shape,
    ShapeError,
    Weight,
    describe,
)


def axis_index(axis: int, shape: Shape) -> int:
    """Translate an axis of the batch's tensor into an index of the shape without batch."""
    index = axis + len(shape) + 1 if axis < 0 else axis
    if not 1 <= index <= len(shape):
        raise ShapeError(f"axis {axis} does not exist in {describe(shape)}, or is the batch's")
    return index - 1


def require_last(axis: int, shape: Shape, layer: str) -> None:
    """Refuse a normalization over another axis than the channels'."""
    if axis_index(axis, shape) != len(shape) - 1:
        raise ShapeError(
            f"{layer} over axis {axis} of {describe(shape)} is not supported; {LAST_AXIS}"
        )


def read_axis(config: Config) -> int:
    axes = config.integer_list("axis") if config.get("axis") is not None else (-1,)
    if len(axes) != 1:
        raise config.error("axis", f"expected one axis, received {show(list(axes))}")
    return axes[0]


@dataclass(frozen=True, kw_only=True)
class Affine(LayerSpec):
    """Gamma and beta, which every normalization may have."""

    epsilon: float
    center: bool
    scale: bool
    gamma_init: Initializer
    beta_init: Initializer

    def affine_weights(self, shape: Shape) -> tuple[Weight, ...]:
        gamma = (Weight("gamma", shape, "weight", self.gamma_init),) if self.scale else ()
        beta = (Weight("beta", shape, "bias", self.beta_init),) if self.center else ()
        return (*gamma, *beta)


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Affine):
    """BatchNormalization; momentum is Keras's (1 − torch's)."""

    axis: int
    momentum: float
    mean_init: Initializer
    variance_init: Initializer

    @classmethod
    def read(cls, config: Config) -> BatchNorm:
        for key in ("renorm", "synchronized", "virtual_batch_size"):
            if config.get(key):
                config.note(f"{key} is ignored: each process normalizes with its own batch")
        return cls(
            axis=read_axis(config),
            momentum=config.number("momentum", 0.99, 0.0, 1.0),
            epsilon=config.number("epsilon", 1e-3, 0.0, 1e3),
            center=config.boolean("center", True),
            scale=config.boolean("scale", True),
            gamma_init=config.initializer("gamma_initializer", ONES),
            beta_init=config.initializer("beta_initializer", ZEROS),
            mean_init=config.initializer("moving_mean_initializer", ZEROS),
            variance_init=config.initializer("moving_variance_initializer", ONES),
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        require_last(self.axis, shapes[0], "BatchNormalization")
        return shapes[0]

    def weights(self, *shapes: Shape) -> tuple[Weight, ...]:
        shape = (shapes[0][-1],)
        return (
            *self.affine_weights(shape),
            Weight("moving_mean", shape, "running_mean", self.mean_init, trainable=False),
            Weight("moving_variance", shape, "running_var", self.variance_init, trainable=False),
        )


@dataclass(frozen=True, kw_only=True)
class GroupNorm(Affine):
    """GroupNormalization, and InstanceNormalization as the case of one channel a group.

    InstanceNormalization follows tensorflow-addons: epsilon is added to the variance.
    """

    axis: int
    groups: int  # -1: as many as channels

    @classmethod
    def read(cls, config: Config, instance: bool) -> GroupNorm:
        if instance and "axis" in config.values and config.values["axis"] is None:
            raise config.refusal("axis_null")
        # The reference engine's key for what Keras calls center and scale.
        affine = config.boolean("affine", True) if instance else True
        groups = -1
        if not instance and config.get("groups", 32) != -1:
            groups = config.integer("groups", 32)
        return cls(
            axis=read_axis(config),
            groups=groups,
            epsilon=config.number("epsilon", 1e-3, 0.0, 1e3),
            center=affine and config.boolean("center", True),
            scale=affine and config.boolean("scale", True),
            gamma_init=config.initializer("gamma_initializer", ONES),
            beta_init=config.initializer("beta_initializer", ZEROS),
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        require_last(self.axis, shapes[0], "a group normalization")
        if self.groups > 0 and shapes[0][-1] % self.groups:
            raise ShapeError(f"its {self.groups} groups do not divide {shapes[0][-1]} channels")
        return shapes[0]

    def weights(self, *shapes: Shape) -> tuple[Weight, ...]:
        return self.affine_weights((shapes[0][-1],))


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Affine):
    """LayerNormalization over the given axes, with Keras's biased variance."""

    axes: tuple[int, ...]

    @classmethod
    def read(cls, config: Config) -> LayerNorm:
        if config.boolean("rms_scaling", False):
            raise config.refusal("rms_scaling")
        axes = config.integer_list("axis") if config.get("axis") is not None else (-1,)
        if not axes:
            raise config.error("axis", "expected at least one axis, received []")
        return cls(
            axes=axes,
            epsilon=config.number("epsilon", 1e-3, 0.0, 1e3),
            center=config.boolean("center", True),
            scale=config.boolean("scale", True),
            gamma_init=config.initializer("gamma_initializer", ONES),
            beta_init=config.initializer("beta_initializer", ZEROS),
        )

    def indices(self, shape: Shape) -> tuple[int, ...]:
        """Return the axes, sorted, as indices of a shape without batch."""
        indices = sorted({axis_index(axis, shape) for axis in self.axes})
        if len(indices) != len(self.axes):
            raise ShapeError(f"axes {list(self.axes)} name one axis twice")
        return tuple(indices)

    def output_shape(self, *shapes: Shape) -> Shape:
        self.indices(shapes[0])
        return shapes[0]

    def weights(self, *shapes: Shape) -> tuple[Weight, ...]:
        shape = shapes[0]
        indices = self.indices(shape)
        keras_shape = tuple(shape[index] for index in indices)
        # torch: shaped to broadcast against (channels, spatial…), the channels' axis in front
        last = len(shape) - 1
        order = [last, *range(last)]
        merged = tuple(shape[i] if i in indices else 1 for i in order)
        axes = tuple(indices.index(i) for i in order if i in indices)
        gamma = Weight("gamma", keras_shape, "weight", self.gamma_init, axes, merged)
        beta = Weight("beta", keras_shape, "bias", self.beta_init, axes, merged)
        return (*((gamma,) if self.scale else ()), *((beta,) if self.center else ()))
