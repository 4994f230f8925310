"""What all commands print with, and how their errors become lines and exit codes."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from hpo.errors import DIAGNOSES, HpoError, StorageError, describe_fault
from hpo.wording import fold
from trainer.errors import TrainerError
from trainer.log import escape_unprintable, printable

INTERRUPTED = 130


class TerminalConsole(Console):
    """A console that shows text as it is: neither obeyed by a terminal nor made a picture of.

    Names of files, messages and the ends of logs come from workers and their images.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, emoji=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Yield what is shown, each letter of which has a form."""
        for segment in super().render(renderable, options):
            if segment.control or (segment.text.isascii() and segment.text.isprintable()):
                yield segment
            else:
                text = "\n".join(map(printable, segment.text.split("\n")))
                # of a terminal that knows ASCII alone, say
                encoded = text.encode(self.encoding, errors="backslashreplace")
                yield Segment(encoded.decode(self.encoding), segment.style)


console = TerminalConsole()
errors = TerminalConsole(stderr=True)


def run_app(command: Callable[..., object], arguments: Sequence[str] | None) -> int:
    """Run a Typer app, turning our errors into lines and exit codes."""
    escape_unprintable()
    try:
        command(args=arguments, standalone_mode=True)
    except HpoError as error:
        text, *details = str(error).splitlines() or [""]
        errors.print(f"error: {text}", markup=False)
        for line in details:  # the end of a worker's log, say, which is no error as a whole
            errors.print(f"    | {line}", markup=False)
        return error.exit_code
    except TrainerError as error:  # each line is a mistake in a config
        for line in str(error).splitlines():
            errors.print(f"error: {line}", markup=False)
        return error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        errors.print(f"error: {where}{error.strerror or error}", markup=False)
        return 1
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  # shown whole, unless it has a line of its own
        found = next(filter(None, (diagnose(error) for diagnose in DIAGNOSES)), None)
        if found is None:
            errors.print("".join(traceback.format_exception(error)), markup=False)
            errors.print(f"error: {describe_fault(error)}", markup=False)
            return HpoError.exit_code
        errors.print(f"error: {found}", markup=False)
        return StorageError.exit_code
    return 0


def tell(screen: Console, text: str, indent: str = "    ") -> None:
    """Print prose: on a terminal folded between words, in a log as one line.

    Commands are printed as they are, so that they can be copied.
    """
    if screen.is_terminal:
        text = fold(text, screen.width, indent)
    screen.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar for a long reading of files on a terminal, nothing in a log."""
    from rich.progress import Progress

    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)
