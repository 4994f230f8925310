"""The command `rml-optimize`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from hpo.command_line import as_options, with_version
from hpo.console import console, counting, run_app
from hpo.errors import StorageError
from hpo.plan.options import Options
from hpo.plan.plugin_help import SearchCommand
from hpo.run.stopping import StopRequest

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command(cls=SearchCommand)
@with_version
@as_options
def optimize(options: Options) -> None:
    """Search the hyperparameters of a segmentation network.

    Called without any search or data option where there is no ./data, it runs a built-in demo on
    synthetic images, as --study demo does.
    """
    # Imported here: `rml-optimize --help` answers in a fraction of what Optuna takes to load.
    from hpo.plan.planner import make_plan

    if options.data.new_study is not None:
        from hpo.plan.newstudy import write_study

        with counting("reading images") as progress:
            lines = write_study(options.data.new_study, options.data.data, progress)
        for line in lines:
            console.print(line, markup=False)
        return
    with counting("reading images") as progress:
        spec = make_plan(options, progress)
    if options.output.dry_run:
        from hpo.run.dryrun import show_dry_run

        show_dry_run(spec, options, console)
        return
    from hpo.run.session import run_session

    stopping = StopRequest(lambda text: console.print(text, markup=False))
    with stopping.on_signals():
        try:
            run_session(spec, options, console, stopping)
        except StorageError as error:  # a database that is away keeps nobody from leaving
            if stopping.signal is None:
                raise
            console.print(f"warning: {error}", markup=False)
    if stopping.signal is not None:
        raise typer.Exit(128 + stopping.signal)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; every mistake ends in one clear line."""
    return run_app(app, arguments)


if __name__ == "__main__":
    sys.exit(main())
