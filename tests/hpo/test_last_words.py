"""What a search says last, after it has failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import clean_environment, one_error, optimize, standin_settings

FAILING = """
import sys
from hpo.run import session
from hpo.cli import main
from hpo.errors import StorageError
from trainer.errors import DataError

def failing(error):
    def fail(*_, **__):
        raise error
    return fail

session.Search.run = failing(DataError("mask.png: cannot be read"))
if sys.argv[1] == "without database":
    session.show_summary = failing(StorageError("no database"))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("then", ["with database", "without database"])
def test_failure_is_what_ends_a_search_after_its_summary(
    discs: Path, tmp_path: Path, then: str
) -> None:
    arguments = optimize(discs, "--num-trials", 2, "--worker", standin_settings(tmp_path, {}))
    result = subprocess.run(
        [sys.executable, "-c", FAILING, then, *arguments], cwd=tmp_path, env=clean_environment(),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "mask.png: cannot be read" in one_error(result)
    assert ("no trial is finished" in result.stdout) == (then == "with database")
