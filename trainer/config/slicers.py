"""The entries of `data.slicers`: how large arrays are cut into samples."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from trainer.config.base import PositiveInt, Section


def _whole_numbers(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


NonNegativeInt = Annotated[int, Field(ge=0)]
Counts = Annotated[tuple[PositiveInt, ...], BeforeValidator(_whole_numbers)]
Margins = Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_whole_numbers)]


class Slicer(Section):
    """One set of slices: a grid of boxes over an array, one number for each of its axes."""

    name: Annotated[str, Field(min_length=1, pattern=r"^[^/]+$")] | None = None
    sizes: Annotated[Counts, Field(min_length=1)]
    padding: Margins | None = None
    padded_sizes: Counts | None = None
    strides: Counts | None = None
    discard_remainders: bool = False
    transpose: bool = False

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        if self.padding is not None and self.padded_sizes is not None:
            raise PydanticCustomError("slicer", "padding and padded_sizes exclude each other")
        for key in ("padding", "padded_sizes", "strides"):
            value = getattr(self, key)
            if value is not None and len(value) != len(self.sizes):
                raise PydanticCustomError(
                    "slicer",
                    "{key} has {n} numbers and sizes {m}; expected one for each axis",
                    {"key": key, "n": len(value), "m": len(self.sizes)},
                )
        for size, padded in zip(self.sizes, self.padded, strict=True):
            if padded < size or (size == 1 and padded > 1):
                raise PydanticCustomError(
                    "slicer",
                    "padded_sizes must not be below sizes, and an axis of size 1, which is "
                    "flattened, takes no padding",
                )
        if not self.sample_shape:
            raise PydanticCustomError("slicer", "sizes: expected at least one number above 1")
        if self.transpose and len(self.sample_shape) != 2:
            raise PydanticCustomError(
                "slicer",
                "transpose is for 2-D slices, and these have {n} axes above size 1",
                {"n": len(self.sample_shape)},
            )
        return self

    @property
    def padded(self) -> tuple[int, ...]:
        """The sizes of a slice with its padding."""
        if self.padding is not None:
            return tuple(n + 2 * p for n, p in zip(self.sizes, self.padding, strict=True))
        return self.padded_sizes or self.sizes

    @property
    def steps(self) -> tuple[int, ...]:
        """How far it is from one slice to the next, along each axis."""
        return self.strides or self.sizes

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape in which a slice reaches the network: without flattened axes, transposed."""
        shape = tuple(
            padded for size, padded in zip(self.sizes, self.padded, strict=True) if size > 1
        )
        return shape[::-1] if self.transpose else shape
