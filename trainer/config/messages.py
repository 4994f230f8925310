"""Turns a failed validation into lines that name the key and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from trainer.keypath import join_path
from trainer.nearest import nearest

MAX_SHOWN = 100  # characters of a name that means nothing

_TYPE_NAMES = {
    "int_type": "expected an integer",
    "int_from_float": "expected an integer",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_type": "expected a text",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected an object",
    "model_type": "expected an object",
    "model_attributes_type": "expected an object",
    "missing": "is missing",
    "too_short": "the list is too short",
    "too_long": "the list is too long",
    "finite_number": "expected a finite number",
}


def hint(name: str, known: Sequence[str]) -> str:
    """Return `did you mean 'adam'? Known: …`."""
    guess = nearest(name, known)
    start = f"did you mean {guess!r}? " if guess else ""
    return f"{start}Known: {', '.join(known)}"


def unknown_key_error(
    key: str, known: Sequence[str], inside: Sequence[str] = ()
) -> PydanticCustomError:
    """Refuse a key that a section does not have; `inside` says in which others it is."""
    text = f"did you mean {' or '.join(map(repr, inside))}?" if inside else hint(key, known)
    return PydanticCustomError("unknown_key", "unknown key; {hint}", {"key": key, "hint": text})


def unknown_name_error(name: str, known: Sequence[str]) -> PydanticCustomError:
    """Refuse a value that is none of the known names."""
    shown = name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}…"
    return PydanticCustomError(
        "unknown_name",
        "unknown name {name}; {hint}",
        {"name": repr(shown), "hint": hint(shown, known)},
    )


def not_yet(name: str) -> PydanticCustomError:
    """Refuse what the contract knows but this version does not carry out."""
    return PydanticCustomError(
        "not_yet",
        "{name} is part of the contract, but this version does not support it yet",
        {"name": repr(name)},
    )


def describe_errors(error: ValidationError, source: str) -> str:
    """Return one line for each mistake, `source: dotted.path: what is wrong`."""
    lines = []
    for entry in error.errors():
        location = tuple(part for part in entry["loc"] if not _is_union_tag(part))
        if entry["type"] == "unknown_key":
            location = (*location, entry["ctx"]["key"])
        text = _TYPE_NAMES.get(entry["type"], entry["msg"])
        if entry["type"] in _TYPE_NAMES and entry["type"] != "missing":
            text = f"{text}, received {_short(entry['input'])}"
        elif entry["type"] in {
            "greater_than",
            "greater_than_equal",
            "less_than",
            "less_than_equal",
            "literal_error",
        }:
            text = f"{text[0].lower()}{text[1:]}, received {_short(entry['input'])}"
        line = f"{source}: {join_path(location)}: {text}" if location else f"{source}: {text}"
        if line not in lines:  # a union reports the same mistake once for each member
            lines.append(line)
    return "\n".join(lines)


def _is_union_tag(part: str | int) -> bool:
    # Pydantic puts the member of a union into the path: class names, `constrained-…`, `tuple[…]`
    return isinstance(part, str) and (
        part[:1].isupper() or "[" in part or "-" in part or part in {"int", "float", "str", "bool"}
    )


def _short(value: object) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}…"
