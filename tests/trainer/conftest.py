"""Runs the worker in this process, as fast as importing torch once allows."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from worker import Result, Worker, base_config, write_json

from trainer.cli import main


@pytest.fixture(autouse=True)
def _leave_as_found() -> Iterator[None]:
    """One thread, and the signal handler that was there before a worker took SIGTERM."""
    torch.set_num_threads(1)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def worker(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Worker:
    """Run `rmldnn` on the disc set in an empty folder; changes are dotted paths with values."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, data: Path | dict = discs, **changes: object) -> Result:
        config = base_config(discs if isinstance(data, dict) else data)
        if isinstance(data, dict):
            config["neural_network"]["data"] = data
        for key, value in changes.items():
            node: dict = config["neural_network"]
            *parents, last = key.split("__")
            for parent in parents:
                node = node.setdefault(parent, {})
            if value is None:
                node.pop(last, None)
            else:
                node[last] = value
        write_json(tmp_path / "config.json", config)
        capsys.readouterr()
        code = main(["--config=config.json", *arguments])
        printed = capsys.readouterr()
        return Result.of(code, printed.out, printed.err, tmp_path)

    return run
