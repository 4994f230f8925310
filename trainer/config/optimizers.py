"""The section `optimizer`, and the `lr_scheduler` in it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from trainer.config.base import NonNegativeFloat, PositiveFloat, PositiveInt, Section, spell_type


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


SCHEDULERS = ("Step", "MultiStep", "Exponential", "Warmup")

Scheduler = Annotated[
    StepScheduler | MultiStepScheduler | ExponentialScheduler | WarmupScheduler,
    Field(discriminator="type"),
    spell_type(SCHEDULERS),
]


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


HESSIAN_LIMITS = {"max_iterations": 2000, "max_func_eval": 4000}  # the reference engine's


class Hessian(_Optimizer):
    """L-BFGS with a line search; the limits hold for each batch.

    A batch is worth some steps, not a whole optimisation: by the reference engine's limits of 2000
    and 4000, meant for one, an epoch of three small batches takes minutes. They are what is left
    open where one of the two is given.
    """

    type: Literal["Hessian"]
    # The contract has none. Drivers write one for every optimizer: the line search starts there.
    learning_rate: PositiveFloat = 1.0
    max_iterations: PositiveInt = 20
    max_func_eval: PositiveInt = 40
    absolute_tolerance: NonNegativeFloat = 1e-8
    relative_tolerance: NonNegativeFloat = 1e-8

    @model_validator(mode="before")
    @classmethod
    def _one_limit_is_enough(cls, value: Any) -> Any:
        if not isinstance(value, dict) or HESSIAN_LIMITS.keys().isdisjoint(value):
            return value
        return HESSIAN_LIMITS | value


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

Optimizer = Annotated[
    SGD | RMSprop | Adagrad | Adam | AdamW | LARS | LAMB | Hessian,
    Field(discriminator="type"),
    spell_type(tuple(OPTIMIZERS), default="SGD"),
]
