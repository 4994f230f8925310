"""Makes Typer commands of dataclasses, whose fields are the options.

So no function has a wall of parameters. A field that is itself such a dataclass is a group of
options, which several commands may share; the help shows it as a paragraph under its docstring.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import inspect
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
import typer.core

Options = TypeVar("Options")

MAX_WIDTH = 100  # of the help; longer lines are hard to read
INDENT = 26  # where what an option does stands


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rml-optimize {importlib.metadata.version('rml-optimize')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", is_eager=True, callback=_show_version, help="Show it and exit"),
]


class HelpfulCommand(typer.core.TyperCommand):
    """A command whose help breaks no word and cuts no option, however narrow the screen is."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the usage, what the command does, and its options group by group."""
        width = min(MAX_WIDTH, shutil.get_terminal_size().columns)
        usage = " ".join([ctx.command_path, *self.collect_usage_pieces(ctx)])
        lines = [f"Usage: {usage}", ""]
        for paragraph in inspect.cleandoc(self.help or "").split("\n\n"):
            lines += [*_wrapped(" ".join(paragraph.split()), width), ""]
        groups: dict[str, list[str]] = {}
        for parameter in self.get_params(ctx):
            is_argument = isinstance(parameter, typer.core.TyperArgument)
            group = getattr(parameter, "rich_help_panel", None)
            group = group or ("Arguments" if is_argument else "Options")
            if record := parameter.get_help_record(ctx):
                groups.setdefault(group, []).extend(_entry(*record, width))
        for group, entries in groups.items():
            lines += [f"{group}:", *entries, ""]
        formatter.write("\n".join(lines))


def _entry(names: str, text: str, width: int) -> list[str]:
    """Return an option's lines: its names, and what it does beside or below them."""
    names = f"  {names.replace('<int range>', '<int>').replace('<float range>', '<float>')}"
    told = _wrapped(" ".join(text.split()), width - INDENT) or [""]
    below = [" " * INDENT + line for line in told]
    if len(names) > INDENT - 2:
        return [names, *below]
    return [f"{names:<{INDENT}}{told[0]}".rstrip(), *below[1:]]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


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


def with_version(flat: Callable[..., None]) -> Callable[..., None]:
    """Give a command that is a program of its own the option --version."""

    def command(version: bool = False, **values: Any) -> None:
        flat(**values)

    own = inspect.Parameter(
        "version", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Version
    )
    known = inspect.signature(flat).parameters.values()
    command.__signature__ = inspect.Signature([*known, own])  # type: ignore[attr-defined]
    command.__name__, command.__doc__ = flat.__name__, flat.__doc__
    return command


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
