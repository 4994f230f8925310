"""What docs/security.md promises is shown by tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tests_that_the_page_names_are_there() -> None:
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    file, named = "", []
    for match in re.finditer(r"`(tests/[\w/]+\.py|…)(?:::(\w+))?`", page):
        file = file if match[1] == "…" else match[1]
        named.append((file, match[2]))
    assert len(named) > 12
    for path, name in named:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert name is None or f"def {name}(" in text, (path, name)
