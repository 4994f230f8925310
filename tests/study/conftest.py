"""One search with a stand-in worker, whose study the commands are tried on."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support import BIN, clean_environment, standin_settings

SMALL = ("--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu", "--num-epochs", "3")
CURVES = {
    "0": [0.2, 0.5, 0.4], "1": [0.3, 0.7, 0.8], "2": [0.1, 0.1, 0.1], "4": [0.3, 0.3, 0.3],
}  # fmt: skip


def _search(data: Path, folder: Path, *arguments: str) -> Path:
    result = subprocess.run(
        [BIN / "rml-optimize", *SMALL, "--data", data, "--jobs", "1", "--study-name", "s",
         "--pruner", "none", *arguments],
        cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="session")
def _searched(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four finished trials of which 1 is the best; trial 3 failed."""
    folder = tmp_path_factory.mktemp("searched")
    settings = {"curve": CURVES, "end": {"3": 7}, "say": "hello from the worker"}
    worker = standin_settings(folder, settings)
    return _search(discs, folder, "--worker", worker, "--num-trials", "4")


@pytest.fixture
def searched(_searched: Path, tmp_path: Path) -> Path:
    """A copy of that search's folder, to do with what one likes."""
    folder = tmp_path / "searched"
    shutil.copytree(_searched, folder)
    return folder


@pytest.fixture(scope="session")
def _trained(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trials of our own worker, compared on a validation part."""
    return _search(
        discs, tmp_path_factory.mktemp("trained"),
        "--launcher", "local", "--num-trials", "2", "--optimizers", "adam",
        "--select-on", "validation", "--set", "data.batch_size=4", "--loss", "bce",
    )  # fmt: skip


@pytest.fixture
def trained(_trained: Path, tmp_path: Path) -> Path:
    """A copy of that study's folder; trials name the first one's."""
    folder = tmp_path / "trained"
    shutil.copytree(_trained, folder)
    return folder
