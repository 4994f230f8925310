"""Makes Typer commands of dataclasses, whose fields are the options.

So no function has a wall of parameters. A field that is itself such a dataclass is a group of
options, which several commands may share; the help shows it as a panel under its docstring.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

Options = TypeVar("Options")


def as_options(command: Callable[[Options], None]) -> Callable[..., None]:
    """Give a command that takes one dataclass the flat signature that Typer reads.

    Each of its fields is `Annotated` with what `typer.Option` or `typer.Argument` returns, or is
    a dataclass of such fields. One without a default must be given.
    """
    (model,) = (kind for name, kind in get_type_hints(command).items() if name != "return")
    parameters = list(_parameters(model, panel=None))

    def flat(**values: Any) -> None:
        command(build(model, values))

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__name__, flat.__doc__ = command.__name__, command.__doc__  # Typer names it so
    return flat


def _parameters(model: type, panel: str | None) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(model, include_extras=True)
    for field in dataclasses.fields(model):
        kind = hints[field.name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from _parameters(kind, kind.__doc__)
            continue
        assert get_origin(kind) is Annotated, f"{model.__name__}.{field.name} is no option"
        value, declared = get_args(kind)
        shown = copy.copy(declared)
        shown.rich_help_panel = panel
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty
            if field.default is dataclasses.MISSING
            else field.default,
            annotation=Annotated[value, shown],
        )


def build(model: Any, values: Mapping[str, Any]) -> Any:
    """Return a dataclass of options, of the values by their fields' names."""
    hints = get_type_hints(model)
    return model(
        **{
            field.name: build(hints[field.name], values)
            if dataclasses.is_dataclass(hints[field.name])
            else values[field.name]
            for field in dataclasses.fields(model)
        }
    )
