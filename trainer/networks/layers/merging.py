"""Layers with several inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainer.networks.config import Config, show
from trainer.networks.layers.normalization import axis_index
from trainer.networks.spec import LayerSpec, Shape, ShapeError, describe

MERGES = ("add", "subtract", "multiply", "average", "maximum", "minimum")


@dataclass(frozen=True, kw_only=True)
class Merge(LayerSpec):
    """Add, Subtract, Multiply, Average, Maximum, Minimum, with Keras's broadcasting."""

    max_inputs: ClassVar[int] = 10_000
    kind: str

    @classmethod
    def read(cls, config: Config, kind: str) -> Merge:
        return cls(kind=kind)

    def output_shape(self, *shapes: Shape) -> Shape:
        if self.kind == "subtract" and len(shapes) != 2:
            raise ShapeError(f"Subtract takes two inputs, received {len(shapes)}")
        rank = max(len(shape) for shape in shapes)
        result: list[int] = []
        for sizes in zip(*(_expand(shape, rank) for shape in shapes), strict=True):
            wanted = {n for n in sizes if n != 1}
            if len(wanted) > 1:
                listed = " and ".join(dict.fromkeys(describe(shape) for shape in shapes))
                raise ShapeError(f"its inputs differ: {listed}")
            result.append(wanted.pop() if wanted else 1)
        return tuple(result)


def _expand(shape: Shape, rank: int) -> Shape:
    return (1,) * (rank - len(shape)) + shape


@dataclass(frozen=True, kw_only=True)
class Concatenate(LayerSpec):
    """Concatenate along one axis (default the channels')."""

    max_inputs: ClassVar[int] = 10_000
    axis: int

    @classmethod
    def read(cls, config: Config) -> Concatenate:
        axis = config.get("axis", -1)
        if isinstance(axis, bool) or not isinstance(axis, int) or abs(axis) > 16:
            raise config.error("axis", f"expected one whole number, received {show(axis)}")
        return cls(axis=axis)

    def output_shape(self, *shapes: Shape) -> Shape:
        first = shapes[0]
        index = axis_index(self.axis, first)
        for shape in shapes[1:]:
            rest = shape[:index] + shape[index + 1 :]
            if len(shape) != len(first) or rest != first[:index] + first[index + 1 :]:
                raise ShapeError(f"its inputs differ: {describe(first)} and {describe(shape)}")
        return (*first[:index], sum(shape[index] for shape in shapes), *first[index + 1 :])
