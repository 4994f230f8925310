"""The command `rml-study`: what can be done with a study."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterable, Sequence

import typer

from hpo.command_line import HelpfulCommand, Version
from hpo.console import run_app

COMMANDS = {
    "list": "list_studies",
    "status": "status",
    "report": "report",
    "trials": "trials",
    "best": "best",
    "show": "show",
    "plot": "plot",
    "dashboard": "dashboard",
    "export": "export",
    "replay": "replay",
    "confirm": "confirm",
    "predict": "predict",
    "score": "score",
    "requeue": "requeue",
    "clean": "clean",
    "doctor": "doctor",
}  # name -> module of hpo.study, with a function of the same name as the module


def make_app(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """Return the app with these commands; the modules of others are not loaded."""
    app = typer.Typer(
        add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
        help="Look at studies and their trials, take them further, and tidy up."
    )  # fmt: skip
    app.callback()(_root)  # or an app of one command would do without its name
    for name in names:
        module = importlib.import_module(f"hpo.study.{COMMANDS[name]}")
        app.command(name, cls=HelpfulCommand)(getattr(module, COMMANDS[name]))
    return app


def _root(version: Version = False) -> None:
    """Look at studies and their trials, take them further, and tidy up."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    # A command makes objects and ends: to look for garbage as often as usual is a seventh of it.
    gc.set_threshold(200_000)
    words = sys.argv[1:] if arguments is None else arguments
    # To load all of them takes longer than many of them take.
    named = [word for word in words[:1] if word in COMMANDS]
    return run_app(make_app(named or COMMANDS), arguments)


if __name__ == "__main__":
    sys.exit(main())
