"""Commands made of dataclasses: what Typer sees, and what the command gets."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated

import pytest
import typer
from support import Run
from typer.testing import CliRunner

from hpo.command_line import as_options


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where it stands"""

    row: Annotated[int, typer.Option("--row", min=1)] = 1
    room: Annotated[str | None, typer.Option("--room")] = None


@dataclass(frozen=True, kw_only=True)
class Book:
    """A book."""

    title: Annotated[str, typer.Argument()]
    year: Annotated[int, typer.Option("--year")]
    place: Place


def call(*arguments: str) -> tuple[int, str, list[Book]]:
    """Return exit code and output of a command, and what it was called with."""
    app, calls = typer.Typer(), []

    @app.command()
    @as_options
    def borrow(book: Book) -> None:
        """Take a book home."""
        calls.append(book)

    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "80", "TERM": "dumb"})
    return result.exit_code, result.output, calls


def test_groups_come_back_as_they_were_declared() -> None:
    code, _, calls = call("Emma", "--year", "1815", "--room", "a b")
    assert code == 0
    assert calls == [Book(title="Emma", year=1815, place=Place(row=1, room="a b"))]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--year", "1815"], "title"), (["Emma"], "--year"),
     (["Emma", "--year", "1", "--row", "0"], "--row")],
)  # fmt: skip
def test_what_has_no_default_is_needed_and_limits_hold(arguments: list[str], named: str) -> None:
    code, output, calls = call(*arguments)
    assert (code, calls) == (2, [])
    assert named in output


def test_help_shows_a_group_under_its_docstring() -> None:
    _, output, _ = call("--help")
    first, _, group = output.partition("Where it stands")
    assert "Take a book home." in first
    assert "--year" in first
    assert "--row" not in first
    assert "--row" in group
    assert "--room" in group


PROGRAMS = (
    "rml-optimize", "rml-study status", "rml-study report", "rml-study confirm", "rml-study score",
    "rml-data check", "rml-data prepare folder",
)  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("columns", ["80", "60"])
def test_help_cuts_no_option_and_breaks_no_word(run: Run, program: str, columns: str) -> None:
    command, *words = program.split()
    text = run(command, *words, "--help", COLUMNS=columns).stdout
    wide = run(command, *words, "--help", COLUMNS="100").stdout
    assert text.split() == wide.split()  # the same words, wherever the lines end
    assert "--help" in text
    long = [line for line in text.splitlines() if len(line) > int(columns)]
    # a word that is longer than a line stays whole
    assert all(len(line.split()) == 1 or line.startswith(("  -", "Usage")) for line in long), long
    assert columns == "60" or not long


@pytest.mark.parametrize("program", ["rml-optimize", "rml-study", "rml-data", "rmldnn"])
def test_every_program_tells_its_version(run: Run, program: str) -> None:
    result = run(program, "--version")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == version("rml-optimize")
