"""Layers that scale and shift: preprocessing within a network, and learned scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainer.networks.config import Config
from trainer.networks.layers.normalization import read_axis, require_last
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


@dataclass(frozen=True, kw_only=True)
class Rescaling(LayerSpec):
    """x × scale + offset, each one number or one per channel."""

    scale: tuple[float, ...]
    offset: tuple[float, ...]

    @classmethod
    def read(cls, config: Config) -> Rescaling:
        return cls(
            scale=_numbers(config, "scale", 1.0),
            offset=_numbers(config, "offset", 0.0),
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        for key, values in (("scale", self.scale), ("offset", self.offset)):
            if len(values) not in (1, shapes[0][-1]):
                raise ShapeError(f"{key} has {len(values)} numbers for {shapes[0][-1]} channels")
        return shapes[0]


def _numbers(config: Config, key: str, default: float) -> tuple[float, ...]:
    """Read one number, or a list of them, one per channel."""
    value = config.get(key, default)
    if not isinstance(value, list):
        return (config.number(key, default),)
    single = [config.with_value(key, item).number(key) for item in value[:4096]]
    if not single:
        raise config.error(key, "expected a number or one per channel, received []")
    return tuple(single)


@dataclass(frozen=True, kw_only=True)
class Normalization(LayerSpec):
    """(x − mean) / max(√variance, 1e-7), with numbers of the file or adapted ones as weights."""

    axis: int
    mean: tuple[float, ...] | None
    variance: tuple[float, ...] | None

    @classmethod
    def read(cls, config: Config) -> Normalization:
        if config.boolean("invert", False):
            raise config.refusal("invert")
        if "axis" in config.values and config.values["axis"] is None:
            raise config.refusal("axis_null")
        given = config.get("mean") is not None or config.get("variance") is not None
        return cls(
            axis=read_axis(config),
            mean=_flat_numbers(config, "mean") if given else None,
            variance=_flat_numbers(config, "variance") if given else None,
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        require_last(self.axis, shapes[0], "Normalization")
        for key, values in (("mean", self.mean), ("variance", self.variance)):
            if values is not None and len(values) not in (1, shapes[0][-1]):
                raise ShapeError(f"{key} has {len(values)} numbers for {shapes[0][-1]} channels")
        return shapes[0]

    def weights(self, *shapes: Shape) -> tuple[Weight, ...]:
        if self.mean is not None:
            return ()
        shape = (shapes[0][-1],)
        return (
            Weight("mean", shape, "mean", ZEROS, trainable=False),
            Weight("variance", shape, "variance", ONES, trainable=False),
            Weight("count", (), "count", ZEROS, trainable=False),
        )


def _flat_numbers(config: Config, key: str) -> tuple[float, ...]:
    """Read numbers that old Keras wraps in as many lists as the tensor has axes."""
    value = config.get(key)
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    return _numbers(config.with_value(key, value), key, 0.0)


@dataclass(frozen=True, kw_only=True)
class LayerScale(LayerSpec):
    """ConvNeXt's learned scale per channel (arXiv 2103.17239)."""

    channels: int
    init: Initializer

    @classmethod
    def read(cls, config: Config) -> LayerScale:
        start = Initializer("constant", config.number("init_values"))
        return cls(channels=config.integer("projection_dim"), init=start)

    def output_shape(self, *shapes: Shape) -> Shape:
        if shapes[0][-1] != self.channels:
            raise ShapeError(f"projection_dim {self.channels} does not fit {describe(shapes[0])}")
        return shapes[0]

    def weights(self, *shapes: Shape) -> tuple[Weight, ...]:
        # Keras 3 leaves it unnamed
        return (Weight("gamma", (self.channels,), "weight", self.init, aliases=("variable",)),)


@dataclass(frozen=True, kw_only=True)
class ScaledAdd(LayerSpec):
    """InceptionResNetV2's sum of a shortcut and a scaled residual."""

    max_inputs: ClassVar[int] = 2
    scale: float

    @classmethod
    def read(cls, config: Config) -> ScaledAdd:
        return cls(scale=config.number("scale"))

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 2 or shapes[0] != shapes[1]:
            listed = " and ".join(describe(shape) for shape in shapes)
            raise ShapeError(f"expected two inputs of one shape, received {listed}")
        return shapes[0]
