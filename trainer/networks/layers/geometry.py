"""Layers that move pixels: upsampling, resizing, padding, cropping, reshaping."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.networks.config import Config
from trainer.networks.spec import (
    LayerSpec,
    Shape,
    ShapeError,
    describe,
    expect_rank,
    positive,
)


def _interpolation(config: Config, default: str) -> str:
    value = config.get("interpolation", default)
    if str(value).lower() not in ("nearest", "bilinear"):
        raise config.refusal("interpolation")
    return str(value).lower()


@dataclass(frozen=True, kw_only=True)
class UpSampling(LayerSpec):
    """UpSampling2D, UpSampling3D: whole factors, nearest or bilinear (half-pixel centres)."""

    factors: tuple[int, ...]
    interpolation: str

    @classmethod
    def read(cls, config: Config, rank: int) -> UpSampling:
        config.channels_last()
        interpolation = "nearest"
        if rank == 2:
            interpolation = _interpolation(config, "nearest")
        return cls(factors=config.integers("size", rank, 2), interpolation=interpolation)

    def output_shape(self, *shapes: Shape) -> Shape:
        expect_rank(shapes[0], len(self.factors))
        sizes = (n * factor for n, factor in zip(shapes[0], self.factors, strict=False))
        return (*sizes, shapes[0][-1])


@dataclass(frozen=True, kw_only=True)
class Resizing(LayerSpec):
    """Resizing to a fixed height and width."""

    height: int
    width: int
    interpolation: str
    antialias: bool

    @classmethod
    def read(cls, config: Config) -> Resizing:
        config.channels_last()
        for key in ("crop_to_aspect_ratio", "pad_to_aspect_ratio"):
            if config.boolean(key, False):
                raise config.refusal("aspect_ratio", key)
        return cls(
            height=config.integer("height"),
            width=config.integer("width"),
            interpolation=_interpolation(config, "bilinear"),
            antialias=config.boolean("antialias", False),
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        expect_rank(shapes[0], 2)
        return (self.height, self.width, shapes[0][-1])


@dataclass(frozen=True, kw_only=True)
class Padding(LayerSpec):
    """ZeroPadding (positive margins) and Cropping (negative ones)."""

    margins: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, config: Config, rank: int, sign: int) -> Padding:
        config.channels_last()
        pairs = config.pairs("padding" if sign > 0 else "cropping", rank, 1 if sign > 0 else 0)
        return cls(margins=tuple((sign * a, sign * b) for a, b in pairs))

    def output_shape(self, *shapes: Shape) -> Shape:
        expect_rank(shapes[0], len(self.margins))
        sizes = (n + sum(margin) for n, margin in zip(shapes[0], self.margins, strict=False))
        return (*positive(tuple(sizes), shapes[0]), shapes[0][-1])


@dataclass(frozen=True, kw_only=True)
class Flatten(LayerSpec):
    """Flatten in the channels-last order, which a following Dense relies on."""

    @classmethod
    def read(cls, config: Config) -> Flatten:
        config.channels_last()
        return cls()

    def output_shape(self, *shapes: Shape) -> Shape:
        return (math.prod(shapes[0]),)


@dataclass(frozen=True, kw_only=True)
class Reshape(LayerSpec):
    """Reshape in the channels-last order; one -1 takes what is left."""

    target: tuple[int, ...]

    @classmethod
    def read(cls, config: Config) -> Reshape:
        target = config.integer_list("target_shape")
        if not target or any(n < -1 or n == 0 for n in target) or target.count(-1) > 1:
            raise config.error(
                "target_shape",
                f"expected positive sizes and at most one -1, received {list(target)}",
            )
        return cls(target=target)

    def output_shape(self, *shapes: Shape) -> Shape:
        total = math.prod(shapes[0])
        known = math.prod(n for n in self.target if n != -1)
        if total % known or (-1 not in self.target and total != known):
            raise ShapeError(
                f"{describe(shapes[0])} has {total} numbers, which do not fit the "
                f"target_shape {list(self.target)}"
            )
        return tuple(total // known if n == -1 else n for n in self.target)


@dataclass(frozen=True, kw_only=True)
class Permute(LayerSpec):
    """Permute of the axes, counted from 1 in Keras's order."""

    dims: tuple[int, ...]

    @classmethod
    def read(cls, config: Config) -> Permute:
        dims = config.integer_list("dims")
        if not dims or sorted(dims) != list(range(1, len(dims) + 1)):
            raise config.error(
                "dims", f"expected an order of the axes 1, 2, …; received {list(dims)}"
            )
        return cls(dims=dims)

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(self.dims) != len(shapes[0]):
            raise ShapeError(f"dims {list(self.dims)} do not fit {describe(shapes[0])}")
        return tuple(shapes[0][dim - 1] for dim in self.dims)
