"""What docs/reading.md says of each case is what happens."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from file_kinds import KINDS
from habits import HABITS, Habit
from prestarted import Prestarted
from reading_table import LIMIT_S, PAGE, TREE, Version, is_right


class Here(Version):
    """The checkout that is tested, of which a process is at hand."""

    def __init__(self, tree: Path, scratch: Path, prestarted: Prestarted) -> None:
        super().__init__(tree, scratch)
        self.prestarted = prestarted

    def _ended(
        self, program: str, arguments: list[str], folder: Path, environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        wanted = {k: v for k, v in environment.items() if k != "PYTHONPATH"}
        if not self.prestarted.can_run(wanted):
            return super()._ended(program, arguments, folder, environment)
        return self.prestarted.run(
            program, arguments, cwd=folder, environment=wanted, timeout=LIMIT_S, errors="replace"
        )


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory, prestarted: Prestarted) -> Version:
    return Here(TREE, tmp_path_factory.mktemp("cases"), prestarted)


def test_every_kind_of_file_is_read_as_its_library_reads_it_or_refused(version: Version) -> None:
    libraries, found = version.read(KINDS)
    wrong = {
        kind.name: (entry if isinstance(entry, str) else "other values")
        for kind, library, entry in zip(KINDS, libraries, found, strict=True)
        if not is_right(kind, library, entry)
    }
    assert wrong == {}


@pytest.mark.parametrize("habit", [habit for _, habit in HABITS], ids=lambda habit: habit.name)
def test_habit_ends_as_meant(version: Version, habit: Habit) -> None:
    tried = version.try_out(habit)
    assert tried.is_as_meant(habit), f"exit code {tried.code}\n{tried.output}"


def test_page_shows_every_case() -> None:
    page = PAGE.read_text(encoding="utf-8")
    names = [*(kind.name for kind in KINDS), *(habit.name for _, habit in HABITS)]
    shown = re.findall(r"^\| (.*?) \|", page, flags=re.MULTILINE)
    assert [name for name in names if name.replace("|", "\\|") not in shown] == []
