"""The section `data`: where the images are, and their transforms."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from trainer.config.base import (
    Finite,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
    SizeHW,
    named,
)
from trainer.config.slicers import Slicer


class Normalize(Section):
    """x' = (x - mean) / std, per channel where a list is given."""

    mean: Finite | tuple[Finite, ...] = 0.0
    std: PositiveFloat | tuple[PositiveFloat, ...] = 1.0


class IntensityJitter(Section):
    """Add up to ±`brightness` to the inputs, and change their contrast by up to ±`contrast`."""

    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0


# OpenCV's codes between the kinds of images that it reads and their common colour spaces.
_PLAIN = ("BGR", "RGB", "BGRA", "RGBA", "GRAY")
_SPACES = ("XYZ", "YCrCb", "YCR_CB", "HSV", "HLS", "LAB", "LUV", "YUV")
COLOR_CODES = (
    *(f"{a}2{b}" for a, b in itertools.permutations(_PLAIN, 2)),
    *(code for a in ("BGR", "RGB") for b in _SPACES for code in (f"{a}2{b}", f"{b}2{a}")),
    *(f"{a}2{b}_FULL" for a in ("BGR", "RGB") for b in ("HSV", "HLS")),
    *(f"{b}2{a}_FULL" for a in ("BGR", "RGB") for b in ("HSV", "HLS")),
)


class Tiles(Section):
    """Train on crops of `size`; evaluate whole images in tiles that overlap by a share of it."""

    size: SizeHW
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.25
    per_image: PositiveInt = 1


def _square(value: Any) -> Any:
    return (value, value) if type(value) is int else value


class RandomPatches(Section):
    """Cut `number` patches of `size` out of each input: one side, or [H, W]; the image itself is
    what the network is to make of what is left."""

    number: PositiveInt
    size: Annotated[SizeHW, BeforeValidator(_square)]


class Transform(Section):
    """One entry of a list of transforms: an object with exactly one key."""

    resize: SizeHW | None = None
    random_horizontal_flip: Fraction | None = None
    random_vertical_flip: Fraction | None = None
    normalize: Normalize | None = None
    center_crop: SizeHW | None = None
    rotate: Finite | None = None
    convert_color: Annotated[str | None, named(*COLOR_CODES)] = None
    random_patches: RandomPatches | None = None
    jitter_crop: Annotated[float, Field(ge=0, lt=1)] | None = None
    random_zoom: Annotated[float, Field(ge=0, lt=1)] | None = None
    random_rotate: Annotated[float, Field(ge=0, le=180)] | None = None
    # Ours:
    random_affine: NonNegativeFloat | None = None
    intensity_jitter: IntensityJitter | None = None

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise PydanticCustomError(
                "one_key", "expected exactly one transform in each entry of the list"
            )
        return self


def _full_or_two_numbers(value: Any) -> Any:
    if value == "full":
        return value
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if is_pair and all(type(limit) in (int, float) and math.isfinite(limit) for limit in value):
        low, high = value
        if low < high:
            return float(low), float(high)
    raise PydanticCustomError(
        "range", 'expected "full" or two numbers [low, high] with low < high, received {value}',
        {"value": repr(list(value) if isinstance(value, tuple) else value)[:60]},
    )  # fmt: skip


INPUTS = ("images", "numpy", "hdf5", "mnist")
Tag = Annotated[str | None, Field(min_length=1, pattern=r"^[^/]+$")]


class Data(Section):
    """Where the images are and what is done to them before the network sees them."""

    type: Annotated[
        Literal["images", "numpy", "hdf5", "mnist", "labels"], named(*INPUTS, "labels")
    ] = "images"
    input_type: Annotated[Literal["images", "numpy", "hdf5", "mnist"] | None, named(*INPUTS)] = (
        None
    )
    target_type: Annotated[
        Literal["images", "numpy", "hdf5", "mnist", "labels"] | None, named(*INPUTS, "labels")
    ] = None
    input_path: str | None = None
    target_path: str | None = None
    test_input_path: str | None = None
    test_target_path: str | None = None
    test_output_path: str | None = None
    training_tag: Tag = None
    testing_tag: Tag = None
    test_tag: Tag = None  # the same; the reference engine's smoke run spells it so
    batch_size: PositiveInt = 64
    test_batch_size: PositiveInt = 64
    preload: bool = False
    target_is_mask: bool = False
    grayscale: bool = False
    input_grayscale: bool | None = None
    target_grayscale: bool | None = None
    transforms: tuple[Transform, ...] = ()
    input_transforms: tuple[Transform, ...] = ()
    target_transforms: tuple[Transform, ...] = ()
    slicers: tuple[Slicer, ...] = ()
    hdf5_outfile: str | None = None
    hdf5_precision: Annotated[Literal["single", "half"], named("single", "half")] = "single"
    # Ours:
    channels_first: bool | None = None
    mask_values: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    mask_threshold: Annotated[int, Field(ge=0)] | None = None
    # Which pixel of a mask is the nearest. None: "exact", or what a stored model was scored with.
    mask_resize: Annotated[Literal["exact", "opencv"] | None, named("exact", "opencv")] = None
    # Where `rotate` turns to. None: clockwise, or where a stored model's images were turned to.
    rotate_direction: Annotated[
        Literal["clockwise", "counterclockwise"] | None, named("clockwise", "counterclockwise")
    ] = None
    class_names: tuple[str, ...] | None = None
    cache: str = "auto"
    tiles: Tiles | None = None
    follow_symlinks: bool = False
    # None: fitted on the training images where they have 16 bits, else the full scale.
    intensity_range: Annotated[
        Literal["full"] | tuple[float, float] | None, BeforeValidator(_full_or_two_numbers)
    ] = None
    halve_batch_on_oom: bool = False

    @field_validator("cache")
    @classmethod
    def _absolute_folder(cls, value: str) -> str:
        # A worker runs in its trial's folder: a relative one would be another for each trial.
        if value in ("auto", "off") or value.startswith(("/", "~/")):
            return value
        raise PydanticCustomError("cache", 'expected "auto", "off" or a folder\'s absolute path')

    @field_validator("mask_values")
    @classmethod
    def _distinct(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (len(set(value)) != len(value) or len(value) < 2):
            raise PydanticCustomError("distinct", "expected two or more distinct mask values")
        return value

    @model_validator(mode="after")
    def _paths_come_in_pairs(self) -> Self:
        if self.has_labels:
            if self.target_path is not None or self.test_target_path is not None:
                where = "its files have" if self.inputs == "mnist" else "folders name"
                raise PydanticCustomError(
                    "pair",
                    "{type} takes no target_path: {where} the classes",
                    {
                        "type": "type mnist" if self.inputs == "mnist" else "target_type labels",
                        "where": where,
                    },
                )
        elif self.input_path is not None and self.target_path is None and self.patches is None:
            raise PydanticCustomError("pair", "input_path needs a target_path to train on")
        if self.mask_values is not None and self.mask_threshold is not None:
            raise PydanticCustomError("pair", "mask_values and mask_threshold exclude each other")
        return self

    @model_validator(mode="after")
    def _types_fit(self) -> Self:
        if self.type == "labels" and self.input_type is None:
            raise PydanticCustomError(
                "types",
                "type labels says nothing about the inputs; set input_type (images, numpy or "
                "hdf5) and target_type labels",
            )
        if self.target_type not in (None, self.inputs, "labels"):
            raise PydanticCustomError(
                "types",
                "inputs are {inputs} and targets {target}; expected the same type, or labels",
                {"inputs": self.inputs, "target": self.target_type},
            )
        return self

    @model_validator(mode="after")
    def _slicers_fit(self) -> Self:
        names = [entry.name for entry in self.slicers if entry.name is not None]
        ranks = {len(entry.sample_shape) for entry in self.slicers}
        problem = None
        if self.slicers and (self.inputs == "images" or self.has_labels):
            problem = "slicers are for inputs and targets of type numpy or hdf5"
        elif self.tiles is not None and (self.inputs != "images" or self.has_labels):
            problem = "tiles are for images with masks; for numpy and hdf5 there are slicers"
        elif len(set(names)) < len(names):
            problem = "slicers: expected distinct names"
        elif len(ranks) > 1:
            problem = (
                "slicers give slices of different numbers of dimensions to one network; make them "
                "equal by sizes of 1, which flatten an axis"
            )
        elif self.hdf5_outfile is not None and not self.slicers:
            problem = "hdf5_outfile needs slicers: it is put together from slices"
        elif self.hdf5_outfile is not None and self.test_input_path is None:
            problem = "hdf5_outfile needs a test_input_path to predict"
        if problem is not None:
            raise PydanticCustomError("slicers", "{problem}", {"problem": problem})
        return self

    @model_validator(mode="after")
    def _tags_fit(self) -> Self:
        tags = ("training_tag", "testing_tag", "test_tag")
        given = [name for name in tags if getattr(self, name) is not None]
        if given and not (self.has_labels and self.inputs == "images"):
            raise PydanticCustomError(
                "tags",
                "{name} is for images with target_type labels: it names the folder underneath "
                "which the classes' folders are",
                {"name": given[0]},
            )
        if None not in (self.testing_tag, self.test_tag) and self.testing_tag != self.test_tag:
            raise PydanticCustomError(
                "tags", "testing_tag and test_tag mean the same; expected one of them"
            )
        return self

    @property
    def tags(self) -> dict[str, tuple[str, str]]:
        """The folder underneath which the classes' folders are, of each part: key and name."""
        found = {
            "train": ("training_tag", self.training_tag),
            "test": ("testing_tag", self.testing_tag or self.test_tag),
        }
        return {part: (f"data.{key}", tag) for part, (key, tag) in found.items() if tag}

    @property
    def inputs(self) -> str:
        """What the inputs are: images, numpy, hdf5 or mnist."""
        return self.input_type or self.type

    @property
    def has_labels(self) -> bool:
        """Whether a sample is of a class: the name of its folder, or MNIST's label."""
        return "labels" in (self.target_type, self.type) or self.inputs == "mnist"

    @model_validator(mode="after")
    def _patches_are_of_images(self) -> Self:
        found = [entry for entry in self.transforms if entry.random_patches is not None]
        if len(found) > 1 or (found and self.tiles is not None):
            raise PydanticCustomError(
                "patches", "transforms: expected random_patches once, and no tiles beside it"
            )
        if found and (self.says_mask or self.has_labels or self.inputs != "images"):
            raise PydanticCustomError(
                "patches",
                "random_patches makes the targets of the images: what is cut out of them is to be "
                "painted; leave target_is_mask and the like out, or, to train on crops of images "
                "and masks, use tiles",
            )
        return self

    @property
    def patches(self) -> RandomPatches | None:
        """What is cut out of the inputs."""
        found = (entry.random_patches for entry in self.transforms)
        return next((entry for entry in found if entry is not None), None)

    @property
    def says_mask(self) -> bool:
        """Whether targets are said to hold classes."""
        has_values = self.mask_values is not None or self.mask_threshold is not None
        return self.target_is_mask or has_values

    @property
    def is_target_gray(self) -> bool:
        """Whether targets that are images are read with one channel."""
        return self.grayscale if self.target_grayscale is None else self.target_grayscale

    @property
    def rotates(self) -> bool:
        """Whether images are turned by a fixed angle."""
        lists = (*self.transforms, *self.input_transforms, *self.target_transforms)
        return any(entry.rotate is not None for entry in lists)

    @property
    def sizes_differ(self) -> bool:
        """Whether inputs and targets are given sizes of their own."""
        lists = (*self.input_transforms, *self.target_transforms)
        return any(entry.resize is not None for entry in lists)

    @property
    def is_input_gray(self) -> bool:
        """Whether inputs are read with one channel."""
        if self.inputs == "mnist":
            return True
        return self.grayscale if self.input_grayscale is None else self.input_grayscale
