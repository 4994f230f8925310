"""Turns groups of options into one Typer command.

So no function has a wall of parameters, and the help shows the groups as panels.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import typer.core

from hpo.plan.options import GROUPS, PLUGIN_GROUPS, Options
from trainer.plugins import plugin_names


class SearchCommand(typer.core.TyperCommand):
    """A command whose help names installed plug-ins: they are looked for only where it is read."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        for parameter in self.params:
            group = PLUGIN_GROUPS.get(str(parameter.name))
            names = plugin_names(group) if group else ()
            if names and isinstance(parameter, typer.core.TyperOption):
                parameter.help = f"{parameter.help}; installed plug-ins: {', '.join(names)}"
        super().format_help(ctx, formatter)


def as_options(command: Callable[[Options], None]) -> Callable[..., None]:
    """Give a command that takes `Options` the flat signature that Typer reads."""
    parameters, owner = [], {}
    for group, model in GROUPS.items():
        hints = get_type_hints(model, include_extras=True)
        for field in dataclasses.fields(model):
            kind = hints[field.name]
            kind.__metadata__[0].rich_help_panel = model.__doc__
            owner[field.name] = group
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=kind,
                )
            )

    def flat(**values: Any) -> None:
        grouped: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        for name, value in values.items():
            grouped[owner[name]][name] = value
        command(Options(**{group: GROUPS[group](**given) for group, given in grouped.items()}))

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__doc__ = command.__doc__
    return flat
