"""Bad input ends in one clear line that names key or file and remedy, with exit code 2."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bad_input import CASES
from support import one_error
from worker import base_config, write_json

AS_PROCESSES = (  # the first five need no torch, which is most of a process's time
    "unknown optimizer", "unknown loss", "unknown key", "wrong type", "nothing to do",
    "no mask", "corrupt image", "unclear mask values", "network is no Keras", "corrupt checkpoint",
)  # fmt: skip


@pytest.fixture
def broken(discs: Path, tmp_path: Path) -> Callable[[str], tuple[str, ...]]:
    """Copy the discs, break something, write the config; return what the error must say."""

    def prepare(case: str) -> tuple[str, ...]:
        if case == "no GPU here" and torch.cuda.is_available():
            pytest.skip("there is a GPU here")
        data = tmp_path / "my data"
        shutil.copytree(discs, data)
        config = base_config(data)
        change, words = CASES[case]
        change(config["neural_network"], data)
        write_json(tmp_path / "config.json", config)
        return words

    return prepare


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_clear_error_with_the_remedy(
    broken, case: str, monkeypatch, tmp_path: Path, capsys
) -> None:
    from trainer.cli import main

    words = broken(case)
    monkeypatch.chdir(tmp_path)
    assert main(["--config=config.json"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rmldnn: error: ")
    assert error.count("\n") == 1, error
    for word in words:
        assert word in error
    assert not (tmp_path / "out_test.txt").exists()


@pytest.mark.parametrize("case", AS_PROCESSES)
def test_bad_input_of_a_real_process_shows_no_traceback(broken, run, case: str) -> None:
    words = broken(case)
    error = one_error(run("rmldnn", "--config=config.json"))
    for word in words:
        assert word in error
