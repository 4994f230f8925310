"""What every section of the config is made of: exact types, and errors that name the key."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from trainer.config.messages import not_yet, unknown_key_error, unknown_name_error

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# As many pixels in all as an image may have, see trainer.data.images.
SidePx = Annotated[int, Field(gt=0, le=2**14)]


def _two_integers(value: Any) -> Any:
    if isinstance(value, list | tuple) and [type(side) for side in value] == [int, int]:
        return tuple(value)
    raise PydanticCustomError(
        "size",
        "expected two positive integers [H, W], received {value}",
        {"value": repr(list(value) if isinstance(value, tuple) else value)[:60]},
    )


SizeHW = Annotated[tuple[SidePx, SidePx], BeforeValidator(_two_integers)]


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


def named(*names: str, later: tuple[str, ...] = ()) -> BeforeValidator:
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


def spell_type(names: tuple[str, ...], *, default: str | None = None) -> BeforeValidator:
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
