"""What a terminal is told holds no orders from a worker, and letters that it knows."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest
from rich.table import Table

from hpo.console import TerminalConsole
from hpo.launchers.log import read_tail
from trainer import rundir
from trainer.log import Log, printable

EVIL = "a\x1b[2J\x1b]0;title\x07b\u202ec\u200bd\u2028e\x9b31mf\udcff"


def written(text: object, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Print with our console; return what reaches the terminal."""
    raw = io.BytesIO()
    console = TerminalConsole()
    console.file = io.TextIOWrapper(raw, encoding=encoding, errors=errors)
    console.print(text, markup=False)
    console.file.flush()
    return raw.getvalue().decode(encoding)


def test_console_shows_orders_to_the_terminal_as_numbers() -> None:
    shown = written(EVIL)
    assert shown.replace("\n", "").isprintable()
    assert re.sub(r"\\x1b", "", shown).startswith("a[2J]0;title")
    assert "\\u202e" in shown
    assert "\\u200b" in shown
    assert "\\udcff" in shown
    table = Table()
    table.add_column(EVIL)
    table.add_row(EVIL)
    assert written(table).replace("\n", "").isprintable()


def test_console_makes_no_pictures_of_a_log() -> None:
    assert written("all :smile: [red]") == "all :smile: [red]\n"


@pytest.mark.parametrize("errors", ["strict", "backslashreplace"])
def test_console_of_ascii_alone_takes_any_letter(errors: str) -> None:
    assert written("größe 漢", "ascii", errors) == "gr\\xf6\\xdfe \\u6f22\n"


def test_printable_leaves_what_people_write() -> None:
    for text in ("größe\t漢字 ☺ \u00a0é", ""):
        assert printable(text) == text
    assert printable("a\nb") == "a\\nb"


def test_log_of_the_worker_writes_names_as_they_are_shown() -> None:
    stream = io.StringIO()
    Log(stream)("file \x1b[2J\u202e.png\nnext")
    lines = stream.getvalue().split("\n")
    assert lines[0].endswith("file \\x1b[2J\\u202e.png")
    assert lines[1].endswith("next")


def test_tail_of_a_log_is_fit_for_a_terminal(tmp_path: Path) -> None:
    (tmp_path / rundir.WORKER_LOG).write_text(f"first\n{EVIL}".replace("\udcff", "") + "\n")
    (tail,) = read_tail(tmp_path, 20).split("\n")[1:2]
    assert tail.isprintable()
    assert "\\u202e" in tail
    (tmp_path / rundir.WORKER_LOG).write_text("x" * 60_000)
    assert len(read_tail(tmp_path, 20)) < 10_000


def test_tail_of_what_is_no_file_is_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / rundir.WORKER_LOG)
    assert read_tail(tmp_path, 20) == ""
