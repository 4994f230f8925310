"""The command `rml-data`: prepares data folders, and checks them before anything is trained."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from hpo.command_line import HelpfulCommand, Version
from hpo.console import run_app
from hpo.data.check import check
from hpo.data.prepare import prepare_app

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
    help="Prepare data folders, and check them before anything is trained."
)  # fmt: skip


@app.callback()
def _root(version: Version = False) -> None:
    """Prepare data folders, and check them before anything is trained."""


app.add_typer(prepare_app, name="prepare")
app.command(cls=HelpfulCommand)(check)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_app(app, arguments)


if __name__ == "__main__":
    sys.exit(main())
