"""What every layer knows without torch: its settings, its output's shape, its weights.

Shapes are Keras's: channels last, no batch. Weights are described in Keras's layout together
with the transposition that turns them into torch's, so that building, counting, loading and
exporting all follow one description.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Shape = tuple[int, ...]
# What makes probabilities of a network's logits; `linear`: its output is taken as it is.
Activation = Literal["sigmoid", "softmax", "log_softmax", "linear"]


MAX_ELEMENTS = 2**31  # of one tensor for one image: 8 GiB of float32


class ShapeError(Exception):
    """A layer cannot take the shapes that reach it; the caller adds the layer's name."""


@dataclass(frozen=True)
class Function:
    """An activation: its name and the numbers that it takes."""

    name: str
    values: tuple[float, ...] = ()


LINEAR = Function("linear")


@dataclass(frozen=True)
class Initializer:
    """How a weight starts, in Keras's terms (fans are counted on the Keras layout)."""

    kind: str
    a: float = 0.0
    b: float = 0.0
    mode: str = ""


ZEROS = Initializer("constant", 0.0)
ONES = Initializer("constant", 1.0)
GLOROT_UNIFORM = Initializer("scaled_uniform", 1.0, mode="fan_avg")


@dataclass(frozen=True)
class Weight:
    """One variable of a layer: Keras's name and shape, torch's name, shape and axis order."""

    name: str
    shape: Shape
    torch_name: str
    init: Initializer
    axes: tuple[int, ...] = ()
    merged_shape: Shape = ()
    trainable: bool = True
    aliases: tuple[str, ...] = ()

    @property
    def transposed_shape(self) -> Shape:
        """Keras's shape in torch's axis order."""
        return tuple(self.shape[axis] for axis in self.axes) if self.axes else self.shape

    @property
    def torch_shape(self) -> Shape:
        """The parameter's shape; differs from the transposed one where torch merges axes."""
        return self.merged_shape or self.transposed_shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """A layer's checked settings. Subclasses add fields and override what differs."""

    max_inputs: ClassVar[int] = 1
    activation: Function = field(default=LINEAR)

    def output_shape(self, *shapes: Shape) -> Shape:
        """Return the output's shape for the inputs' shapes; ShapeError says what is wrong."""
        return shapes[0]

    def weights(self, *shapes: Shape) -> tuple[Weight, ...]:
        """List the layer's variables in Keras's order (trainable first)."""
        return ()


def describe(shape: Shape | tuple[int | None, ...]) -> str:
    """Write a shape with its batch axis, as Keras prints it: `(N, 64, 64, 3)`."""
    return "(" + ", ".join(["N", *("?" if n is None else str(n) for n in shape)]) + ")"


def expect_rank(shape: Shape, rank: int) -> None:
    """Refuse an input that has not `rank` spatial axes and a channel axis."""
    if len(shape) != rank + 1:
        wanted = describe((None,) * (rank + 1))
        raise ShapeError(f"expected an input of shape {wanted}, received {describe(shape)}")


def bounded(sizes: Shape, shape: Shape) -> None:
    """Refuse a kernel so large that its padding alone would fill the memory."""
    if math.prod(sizes) * shape[-1] > MAX_ELEMENTS:
        raise ShapeError(
            f"its kernel reaches over {'×'.join(map(str, sizes))} pixels of {describe(shape)}"
        )


def positive(shape: Shape, given: Shape) -> Shape:
    """Refuse an output without any pixel left."""
    if min(shape, default=1) < 1:
        raise ShapeError(f"the input {describe(given)} is too small: nothing would be left of it")
    return shape
