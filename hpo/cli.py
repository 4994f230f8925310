"""The command `rml-optimize`."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import typer

from hpo.console import console, run_app
from hpo.options import Options, as_options

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command()
@as_options
def optimize(options: Options) -> None:
    """Search the hyperparameters of a segmentation network.

    Called without any search or data option where there is no ./data, it runs a built-in demo on
    synthetic images, as --study demo does.
    """
    # Imported here: `rml-optimize --help` answers in a fraction of what Optuna takes to load.
    from hpo.plan import make_plan

    if options.data.new_study is not None:
        from hpo.newstudy import write_study

        with counting("reading images") as progress:
            lines = write_study(options.data.new_study, options.data.data, progress)
        for line in lines:
            console.print(line, markup=False)
        return
    with counting("reading images") as progress:
        spec = make_plan(options, progress)
    if options.output.dry_run:
        from hpo.dryrun import show_dry_run

        show_dry_run(spec, options, console)
        return
    from hpo.session import run_session

    stopping = threading.Event()
    with _stop_on_signals(stopping) as received:
        run_session(spec, options, console, stopping)
    if received:
        raise typer.Exit(128 + received[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; every mistake ends in one clear line."""
    return run_app(app, arguments)


@contextlib.contextmanager
def _stop_on_signals(stopping: threading.Event) -> Iterator[list[int]]:
    """Let SIGINT and SIGTERM stop the search in order; a second one ends it at once.

    Yields the list of signals that were received.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        console.print("stopping: workers are ended and their trials given back …")
        stopping.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar for a long reading of files on a terminal, nothing in a log."""
    from rich.progress import Progress

    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


if __name__ == "__main__":
    sys.exit(main())
