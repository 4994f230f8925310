"""The config of one run: the contract's `neural_network` object, checked before anything runs.

Every key of the contract is known here; one that this version does not carry out is refused by
name, never ignored. No torch here: the driver validates each trial's config with this module.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from trainer.config_errors import describe_errors, not_yet, unknown_key_error, unknown_name_error
from trainer.errors import ConfigError

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
SizeHW = tuple[PositiveInt, PositiveInt]


def _named(*names: str, later: tuple[str, ...] = ()) -> BeforeValidator:
    """Accept a name in any case and return it as the contract writes it."""
    spelling = {name.lower(): name for name in names}

    def normalise(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lower() in {name.lower() for name in later}:
            raise not_yet(value)
        if value.lower() not in spelling:
            raise unknown_name_error(value, names)
        return spelling[value.lower()]

    return BeforeValidator(normalise)


class Section(BaseModel):
    """An object of the config: frozen, exact types, unknown keys refused with the nearest name."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for key in value:
            if key not in cls.model_fields:
                raise cls._unknown_key(str(key))
        # JSON has lists only; strict validation wants the tuples that a frozen model holds.
        return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}

    @classmethod
    def _unknown_key(cls, key: str) -> PydanticCustomError:
        return unknown_key_error(key, tuple(cls.model_fields))


# --- optimizer ------------------------------------------------------------------------------


class StepScheduler(Section):
    """Multiply the learning rate by `gamma` every `step_size` epochs."""

    type: Literal["Step"]
    gamma: PositiveFloat = 0.1
    step_size: PositiveInt
    verbose: bool = False


class MultiStepScheduler(Section):
    """Multiply the learning rate by `gamma` after each of the epochs `milestones`."""

    type: Literal["MultiStep"]
    gamma: PositiveFloat = 0.1
    milestones: tuple[PositiveInt, ...]
    verbose: bool = False


class ExponentialScheduler(Section):
    """Multiply the learning rate by `gamma` after each epoch."""

    type: Literal["Exponential"]
    gamma: PositiveFloat
    verbose: bool = False


class WarmupScheduler(Section):
    """Grow the learning rate linearly from `start_factor` of it over `num_epochs` epochs."""

    type: Literal["Warmup"]
    num_epochs: PositiveInt
    start_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    verbose: bool = False


class _Optimizer(Section):
    learning_rate: PositiveFloat = 0.01
    lr_scheduler: Scheduler | None = None


class _Decaying(_Optimizer):
    weight_decay: NonNegativeFloat = 0.0


class _Momentum(_Decaying):
    momentum: NonNegativeFloat = 0.0
    dampening: NonNegativeFloat = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise PydanticCustomError(
                "nesterov", "nesterov needs a momentum above 0 and a dampening of 0"
            )
        return self


class SGD(_Momentum):
    """Stochastic gradient descent, as `torch.optim.SGD`."""

    type: Literal["SGD"] = "SGD"


class LARS(_Momentum):
    """Layer-wise adaptive rate scaling, arXiv 1708.03888."""

    type: Literal["LARS"]
    eta: PositiveFloat = 1e-3


class Adagrad(_Decaying):
    """Adaptive subgradients, as `torch.optim.Adagrad`."""

    type: Literal["Adagrad"]
    lr_decay: NonNegativeFloat = 0.0


class _AdamFamily(_Decaying):
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    eps: NonNegativeFloat = 1e-8
    amsgrad: bool = False


class Adam(_AdamFamily):
    """Adam, as `torch.optim.Adam`."""

    type: Literal["Adam"]


class AdamW(_AdamFamily):
    """Adam with decoupled weight decay, as `torch.optim.AdamW`."""

    type: Literal["AdamW"]


class LAMB(_AdamFamily):
    """Layer-wise adaptive moments, arXiv 1904.00962."""

    type: Literal["LAMB"]


class RMSprop(_Decaying):
    """RMSprop, as `torch.optim.RMSprop`."""

    type: Literal["RMSprop"]
    momentum: NonNegativeFloat = 0.0
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99
    eps: NonNegativeFloat = 1e-8
    centered: bool = False


class Hessian(_Optimizer):
    """L-BFGS with a line search; the limits hold for each batch."""

    type: Literal["Hessian"]
    # The contract has none. Drivers write one for every optimizer: the line search starts there.
    learning_rate: PositiveFloat = 1.0
    max_iterations: PositiveInt = 2000
    max_func_eval: PositiveInt = 4000
    absolute_tolerance: NonNegativeFloat = 1e-8
    relative_tolerance: NonNegativeFloat = 1e-8


OPTIMIZERS: dict[str, type[_Optimizer]] = {
    "SGD": SGD,
    "RMSprop": RMSprop,
    "Adagrad": Adagrad,
    "Adam": Adam,
    "AdamW": AdamW,
    "LARS": LARS,
    "LAMB": LAMB,
    "Hessian": Hessian,
}
SCHEDULERS = ("Step", "MultiStep", "Exponential", "Warmup")


def _spell_type(names: tuple[str, ...], *, default: str | None = None) -> BeforeValidator:
    """Check the `type` of a section and write it as the contract does, whatever its case."""
    spelling = {name.lower(): name for name in names}

    def spell(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        kind = value.get("type", default)
        if not isinstance(kind, str):
            raise PydanticCustomError(
                "type", "expected a 'type', one of {names}", {"names": ", ".join(names)}
            )
        if kind.lower() not in spelling:
            raise unknown_name_error(kind, names)
        return {**value, "type": spelling[kind.lower()]}

    return BeforeValidator(spell)


Scheduler = Annotated[
    StepScheduler | MultiStepScheduler | ExponentialScheduler | WarmupScheduler,
    Field(discriminator="type"),
    _spell_type(SCHEDULERS),
]
Optimizer = Annotated[
    SGD | RMSprop | Adagrad | Adam | AdamW | LARS | LAMB | Hessian,
    Field(discriminator="type"),
    _spell_type(tuple(OPTIMIZERS), default="SGD"),
]

# --- loss -----------------------------------------------------------------------------------

LossName = Literal["NLL", "BCE", "MSE", "Dice", "Jaccard", "Focal", "Lovasz"]
LOSSES = ("NLL", "BCE", "MSE", "Dice", "Jaccard", "Focal", "Lovasz")

_INVERSE_FREQUENCY = re.compile(r"inverse_frequency\^(\d*\.?\d+)")


def _class_weights(value: Any) -> Any:
    # Checked whole, because a union reports a mistake once for each of its members.
    is_numbers = isinstance(value, tuple) and all(
        type(weight) in (int, float) and 0 <= weight < float("inf") for weight in value
    )
    is_rule = isinstance(value, str) and _INVERSE_FREQUENCY.fullmatch(value)
    if value is None or is_numbers or is_rule:
        return value
    raise PydanticCustomError(
        "weight",
        'expected a list with one number of 0 or more per class, or "inverse_frequency^0.35" '
        "(count^-0.35, divided by its mean), received {value}",
        {"value": repr(list(value) if isinstance(value, tuple) else value)},
    )


class Loss(Section):
    """What training minimises; `source` names the activation that ends the network."""

    function: Annotated[LossName, _named(*LOSSES)]
    source: (
        Annotated[
            Literal["sigmoid", "softmax", "log_softmax"],
            _named("sigmoid", "softmax", "log_softmax"),
        ]
        | None
    ) = None
    weight: Annotated[
        tuple[NonNegativeFloat, ...] | str | None, BeforeValidator(_class_weights)
    ] = None
    ignore_index: int | None = None
    eps: PositiveFloat = 1e-7  # the reference engine's Dice
    gamma: NonNegativeFloat = 2.0  # of Focal; the best in Lin et al. 2017, table 1b

    @property
    def weight_power(self) -> float | None:
        """The power p of "inverse_frequency^p", for weights from the training set's counts."""
        match = _INVERSE_FREQUENCY.fullmatch(self.weight) if isinstance(self.weight, str) else None
        return float(match[1]) if match else None


# --- data -----------------------------------------------------------------------------------


class Normalize(Section):
    """x' = (x - mean) / std, per channel where a list is given."""

    mean: Finite | tuple[Finite, ...] = 0.0
    std: PositiveFloat | tuple[PositiveFloat, ...] = 1.0


TRANSFORMS_LATER = (
    "center_crop",
    "jitter_crop",
    "random_zoom",
    "rotate",
    "random_rotate",
    "convert_color",
    "random_patches",
)


class Transform(Section):
    """One entry of a list of transforms: an object with exactly one key."""

    resize: SizeHW | None = None
    random_horizontal_flip: Fraction | None = None
    random_vertical_flip: Fraction | None = None
    normalize: Normalize | None = None

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise PydanticCustomError(
                "one_key", "expected exactly one transform in each entry of the list"
            )
        return self

    @classmethod
    def _unknown_key(cls, key: str) -> PydanticCustomError:
        return not_yet(key) if key in TRANSFORMS_LATER else super()._unknown_key(key)


class Data(Section):
    """Where the images are and what is done to them before the network sees them."""

    type: Annotated[Literal["images"], _named("images", later=("numpy", "hdf5", "labels"))] = (
        "images"
    )
    input_type: Annotated[Literal["images"] | None, _named("images", later=("numpy", "hdf5"))] = (
        None
    )
    target_type: Annotated[
        Literal["images"] | None, _named("images", later=("numpy", "hdf5", "labels"))
    ] = None
    input_path: str | None = None
    target_path: str | None = None
    test_input_path: str | None = None
    test_target_path: str | None = None
    test_output_path: str | None = None
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
    # Ours:
    mask_values: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    mask_threshold: Annotated[int, Field(ge=0)] | None = None
    class_names: tuple[str, ...] | None = None

    @field_validator("mask_values")
    @classmethod
    def _distinct(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (len(set(value)) != len(value) or len(value) < 2):
            raise PydanticCustomError("distinct", "expected two or more distinct mask values")
        return value

    @model_validator(mode="after")
    def _paths_come_in_pairs(self) -> Self:
        if self.input_path is not None and self.target_path is None:
            raise PydanticCustomError("pair", "input_path needs a target_path to train on")
        if self.mask_values is not None and self.mask_threshold is not None:
            raise PydanticCustomError("pair", "mask_values and mask_threshold exclude each other")
        return self

    @property
    def is_input_gray(self) -> bool:
        """Whether inputs are read with one channel."""
        return self.grayscale if self.input_grayscale is None else self.input_grayscale


# --- the rest -------------------------------------------------------------------------------


class Checkpoints(Section):
    """Which weights to start from and which to keep."""

    load: str | None = None
    save: str | None = None
    interval: PositiveInt = 1
    # Ours. "best": only the checkpoint of the best evaluation so far stays on the disk.
    keep: Literal["all", "best"] = "all"


class Metrics(Section):
    """How the accuracy is averaged (ours)."""

    include_background: bool = False


def _file_or_layers(value: Any) -> Any:
    if isinstance(value, str | tuple | dict) and value:
        return value
    raise PydanticCustomError(
        "layers", "expected the name of a network file, or the layers themselves"
    )


class NeuralNetwork(Section):
    """Everything that the worker needs to know about one run."""

    layers: Annotated[Any, BeforeValidator(_file_or_layers)]
    outfile: str | None = None
    num_epochs: PositiveInt = 1
    debug: bool = False
    debug_interval: PositiveInt | None = None
    checkpoints: Checkpoints = Checkpoints()
    data: Data
    optimizer: Optimizer = SGD()
    loss: Loss | None = None
    # Ours:
    metrics: Metrics = Metrics()
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.data.input_path is None and self.data.test_input_path is None:
            raise PydanticCustomError(
                "nothing", "nothing to do: set data.input_path to train or data.test_input_path"
            )
        if self.data.input_path is not None and self.loss is None:
            raise PydanticCustomError(
                "loss",
                "training needs loss.function, one of {names}",
                {"names": ", ".join(LOSSES)},
            )
        return self

    @property
    def is_training(self) -> bool:
        """Whether there is something to train on."""
        return self.data.input_path is not None


# Keys that only this engine knows; a driver leaves them out for an engine that is not ours.
EXTENSIONS = (
    "seed",
    "precision",
    "device",
    "metrics",
    "checkpoints.keep",
    "data.mask_values",
    "data.mask_threshold",
    "data.class_names",
    "loss.eps",
    "loss.gamma",
)


def parse_config(obj: Any, source: str = "config") -> NeuralNetwork:
    """Check `{"neural_network": {…}}` and return it.

    Raises:
        ConfigError: every mistake found, one a line, each with its dotted path.
    """
    if not isinstance(obj, dict) or set(obj) != {"neural_network"}:
        raise ConfigError(f'{source}: expected one object "neural_network" at the top')
    try:
        return NeuralNetwork.model_validate(obj["neural_network"])
    except ValidationError as error:
        raise ConfigError(describe_errors(error, source)) from None


def load_config(path: Path, settings: dict[str, Any] | None = None) -> NeuralNetwork:
    """Read a config file, apply `settings` (dotted path → value), and check the result."""
    from trainer.keypath import set_path

    try:
        obj = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error})") from None
    for key, value in (settings or {}).items():
        set_path(obj, f"neural_network.{key}", value)
    return parse_config(obj, str(path))
