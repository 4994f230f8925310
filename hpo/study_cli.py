"""The command `rml-study`: what can be done with a study."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import typer

from hpo.console import run_app
from hpo.study import (
    clean,
    confirm,
    dashboard,
    doctor,
    export,
    plot,
    predict,
    replay,
    status,
    trials,
)

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
    help="Look at studies and their trials, take them further, and tidy up."
)  # fmt: skip

COMMANDS: dict[str, Callable[..., None]] = {
    "list": status.list_studies,
    "status": status.status,
    "best": trials.best,
    "show": trials.show,
    "plot": plot.plot,
    "dashboard": dashboard.dashboard,
    "export": export.export,
    "replay": replay.replay,
    "confirm": confirm.confirm,
    "predict": predict.predict,
    "requeue": trials.requeue,
    "clean": clean.clean,
    "doctor": doctor.doctor,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_app(app, arguments)


if __name__ == "__main__":
    sys.exit(main())
