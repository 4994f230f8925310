"""The section `loss`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from trainer.config.base import NonNegativeFloat, PositiveFloat, Section, named
from trainer.config.messages import unknown_name_error
from trainer.plugins import LOSSES_GROUP, plugin_names

LOSSES = ("NLL", "BCE", "MSE", "Dice", "Jaccard", "Focal", "Lovasz")
REGION_LOSSES = ("Dice", "Jaccard", "Lovasz")  # compare regions; a label has none

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


def known_losses() -> tuple[str, ...]:
    """Return the contract's losses, then those of installed plug-ins."""
    return (*LOSSES, *plugin_names(LOSSES_GROUP))


def _loss_name(value: Any) -> Any:
    """Write one of the contract's losses as it does; a plug-in's name is its own, to the letter.

    Plug-ins are looked for only where the contract has no such loss: that reads the list of
    installed packages.
    """
    if not isinstance(value, str):
        return value
    spelling = {name.lower(): name for name in LOSSES}
    if value.lower() in spelling:
        return spelling[value.lower()]
    if value not in plugin_names(LOSSES_GROUP):
        raise unknown_name_error(value, known_losses())
    return value


class Loss(Section):
    """What training minimises; `source` names the activation that ends the network."""

    function: Annotated[str, BeforeValidator(_loss_name)]
    source: (
        Annotated[
            Literal["sigmoid", "softmax", "log_softmax"],
            named("sigmoid", "softmax", "log_softmax"),
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
