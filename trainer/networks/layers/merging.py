"""Layers with several inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainer.networks.config import Config, show
from trainer.networks.layers.normalization import axis_index
from trainer.networks.spec import LayerSpec, Shape, ShapeError, describe

MERGES = ("add", "subtract", "multiply", "average", "maximum", "minimum", "divide")


@dataclass(frozen=True, kw_only=True)
class Merge(LayerSpec):
    """Add, Subtract, Multiply, Average, Maximum, Minimum, with Keras's broadcasting."""

    max_inputs: ClassVar[int] = 10_000
    kind: str

    @classmethod
    def read(cls, config: Config, kind: str) -> Merge:
        return cls(kind=kind)

    def output_shape(self, *shapes: Shape) -> Shape:
        if self.kind in ("subtract", "divide") and len(shapes) != 2:
            raise ShapeError(f"{self.kind} takes two inputs, received {len(shapes)}")
        rank = max(len(shape) for shape in shapes)
        result: list[int] = []
        for sizes in zip(*(_expand(shape, rank) for shape in shapes), strict=True):
            wanted = {n for n in sizes if n != 1}
            if len(wanted) > 1:
                listed = " and ".join(dict.fromkeys(describe(shape) for shape in shapes))
                raise ShapeError(f"its inputs differ: {listed}")
            result.append(wanted.pop() if wanted else 1)
        return tuple(result)


@dataclass(frozen=True, kw_only=True)
class Arithmetic(LayerSpec):
    """An operation of a tensor and a number, such as `x + 3.0` or `1.0 - x`."""

    operation: str
    left: float | None
    right: float | None

    @classmethod
    def read(cls, config: Config) -> Arithmetic:
        left, right = config.optional_number("left"), config.optional_number("right")
        operation = config.choice("operation", ("add", "subtract", "multiply", "divide"), "")
        if (left is None) == (right is None):
            raise config.error("left", "expected one number, left or right")
        if operation == "divide" and right == 0:
            raise config.error("right", "expected a number to divide by, received 0")
        return cls(operation=operation, left=left, right=right)


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
