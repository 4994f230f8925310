"""Pooling: settings and shapes."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.networks.config import Config
from trainer.networks.layers.convolution import Window, read_padding
from trainer.networks.spec import LayerSpec, Shape, expect_rank


@dataclass(frozen=True, kw_only=True)
class Pool(Window):
    """MaxPooling and AveragePooling; the average leaves padded pixels out, as TensorFlow does."""

    maximum: bool

    @classmethod
    def read(cls, config: Config, rank: int, maximum: bool) -> Pool:
        config.channels_last()
        size = config.integers("pool_size", rank, 2)
        return cls(
            kernel=size,
            strides=config.integers("strides", rank) if config.get("strides") else size,
            dilation=(1,) * rank,
            same=read_padding(config),
            maximum=maximum,
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*self.spatial_shape(shapes[0]), shapes[0][-1])


@dataclass(frozen=True, kw_only=True)
class GlobalPool(LayerSpec):
    """GlobalMaxPooling and GlobalAveragePooling."""

    rank: int
    maximum: bool
    keepdims: bool

    @classmethod
    def read(cls, config: Config, rank: int, maximum: bool) -> GlobalPool:
        config.channels_last()
        return cls(rank=rank, maximum=maximum, keepdims=config.boolean("keepdims", False))

    def output_shape(self, *shapes: Shape) -> Shape:
        expect_rank(shapes[0], self.rank)
        return (*((1,) * self.rank if self.keepdims else ()), shapes[0][-1])
