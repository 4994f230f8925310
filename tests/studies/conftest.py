"""`rml-data` in this process."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from studies_archives import Rml

from hpo.data.cli import main


@pytest.fixture
def rml_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Rml:
    """Run `rml-data` in this process, which saves its start, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return call
