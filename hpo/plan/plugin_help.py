"""Names installed plug-ins in the help of a search."""

from __future__ import annotations

from typing import Any

import typer.core

from hpo.command_line import HelpfulCommand
from hpo.plan.options import PLUGIN_GROUPS
from trainer.plugins import plugin_names


class SearchCommand(HelpfulCommand):
    """A command whose help names installed plug-ins: they are looked for only where it is read."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        for parameter in self.params:
            group = PLUGIN_GROUPS.get(str(parameter.name))
            names = plugin_names(group) if group else ()
            if names and isinstance(parameter, typer.core.TyperOption):
                parameter.help = f"{parameter.help}; installed plug-ins: {', '.join(names)}"
        super().format_help(ctx, formatter)
