"""Data sets of the user's own in `rml-data prepare`: plug-ins, imported when they are run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer.core

from trainer.errors import ConfigError, TrainerError
from trainer.plugins import DATASETS_GROUP, describe, describe_plugin, load_plugin, plugin_names

if TYPE_CHECKING:
    from studies.prepare.samples import Found


class PluginGroup(typer.core.TyperGroup):
    """A group of commands that has those of plug-ins after its own."""

    def plugin_command(self, name: str) -> Any:
        """Return the command for a plug-in."""
        raise NotImplementedError

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        ours = super().list_commands(ctx)
        return [*ours, *(name for name in plugin_names(DATASETS_GROUP) if name not in ours)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, None if there is none of the name."""
        command = super().get_command(ctx, cmd_name)
        if command is None and cmd_name in plugin_names(DATASETS_GROUP):
            return self.plugin_command(cmd_name)
        return command


def find_by_plugin(name: str, source: Path) -> Found:
    """Ask a plug-in for its samples.

    Raises:
        ConfigError: it cannot be loaded, fails, or gives something else.
        DataError: as the plug-in says.
    """
    from studies.prepare.samples import Found

    function = load_plugin(DATASETS_GROUP, name)
    where = describe_plugin(DATASETS_GROUP, name)
    try:
        found = function(source)
    except TrainerError:
        raise
    except Exception as error:
        raise ConfigError(f"plug-in {where}: {describe(error)}") from error
    if not isinstance(found, Found):
        raise ConfigError(f"plug-in {where}: expected Found, received {type(found).__name__}")
    return found
