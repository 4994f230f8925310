"""Names in any writing, on terminals of any: read and shown, or refused in one line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support import one_error

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
DRY = ("--resize", "32,32", "--no-gpu", "--num-trials", "1", "--dry-run")


@pytest.fixture
def data(discs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(discs, tmp_path / "data"))


def rename(data: Path, name: bytes) -> None:
    for kind in ("inputs", "targets"):
        folder = os.fsencode(data / "train" / kind)
        os.rename(folder + b"/img 00.png", folder + b"/" + name)  # noqa: PTH104


@pytest.mark.parametrize("command", [("rml-optimize", "--data"), ("rml-data", "check")])
def test_name_that_is_no_utf_8_is_refused_in_one_line(run, data, command) -> None:
    rename(data, b"caf\xe9.png")
    error = one_error(run(*command, data, *(DRY if command[1] == "--data" else ())))
    assert r"caf\xe9.png" in error
    assert "its name is not UTF-8; rename it" in error


def test_terminal_without_the_letters_gets_their_numbers(run, data: Path) -> None:
    rename(data, "Müller.png".encode())
    checked = run("rml-data", "check", data, **ASCII)
    assert checked.returncode == 0, checked.stderr
    (data / "test/targets/img 00.png").unlink()
    shutil.copy(data / "train/targets/Müller.png", data / "test/targets")
    checked = run("rml-data", "check", data, **ASCII)
    assert "1 without an image: M" in checked.stdout
    assert "Traceback" not in checked.stderr
