"""What a warm worker gives back: after a run, a prune, a shortage of memory, a crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from gpu_runs import attempt, config_of, score_lines
from support import clean_environment, data_section
from torch import Tensor

from trainer import stopping
from trainer.commands.serve import MAX_LEFT_ON_DEVICE_BYTES, _clean_up
from trainer.networks.module import KerasModule

LEFT_BYTES = 2**20  # constants, not a network; the worker ends itself above 64 MiB


@pytest.fixture(autouse=True)
def _alone(device: torch.device) -> None:
    """Nothing of other tests of this process."""
    _clean_up()


def held_bytes() -> int:
    """Return what tensors hold on the GPU; 0 without one."""
    _clean_up()
    return torch.cuda.memory_allocated()


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("ending", ["well", "prune", "shortage", "crash"])
def test_memory_comes_back(
    ending: str, graph: bool, data: Path, device: torch.device, tmp_path: Path, monkeypatch
) -> None:
    before, reserved, calls = held_bytes(), torch.cuda.memory_reserved(), []
    compute = KerasModule.logits

    def logits(self: KerasModule, x: Tensor) -> Tensor:
        calls.append(1)
        y = compute(self, x)
        if len(calls) == 12 and ending == "prune":
            stopping.request_stop()
        if len(calls) >= 12 and ending == "shortage":
            return torch.empty(2**50, device=device)
        if len(calls) == 12 and ending == "crash":
            raise RuntimeError("a crash")
        return y

    monkeypatch.setattr(KerasModule, "logits", logits)
    # The twelfth forward pass is in an evaluation where the steps are graphs (of the eighth epoch:
    # four passes make the graph), else in a step.
    config = config_of(
        data_section(data, batch_size=2), device=device.type, num_epochs=12, cuda_graph=graph,
        layers="unet:width=16,depth=3",
    )  # fmt: skip
    try:
        if ending == "crash":
            with pytest.raises(RuntimeError, match="a crash"):
                attempt(tmp_path, config)
        else:
            assert attempt(tmp_path, config) == {"well": 0, "prune": 143, "shortage": 4}[ending]
    finally:
        stopping.forget_stop()
    assert held_bytes() - before < LEFT_BYTES
    assert torch.cuda.memory_reserved() - reserved < MAX_LEFT_ON_DEVICE_BYTES


def test_shortage_in_an_evaluation_takes_the_graphs_memory(
    data: Path, gpu: torch.device, tmp_path: Path, monkeypatch, capsys
) -> None:
    """Evaluated once more, when the graphs are gone: the run goes on."""
    compute, failed = KerasModule.logits, []

    def logits(self: KerasModule, x: Tensor) -> Tensor:
        if not self.training and not failed:
            failed.append(1)
            return torch.empty(2**50, device=gpu)
        return compute(self, x)

    monkeypatch.setattr(KerasModule, "logits", logits)
    config = config_of(data_section(data, batch_size=2), device="cuda", num_epochs=2)
    assert attempt(tmp_path, config) == 0
    assert len(score_lines(tmp_path)) == 2
    assert "their memory is needed" in capsys.readouterr().out


def test_worker_stays_after_runs_and_prunes(
    data: Path, device: torch.device, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("first", "pruned", "third", "fourth")]
    for folder in folders:
        folder.mkdir()
        config = config_of(
            data_section(data), device=device.type, layers="unet:width=16,depth=3",
            num_epochs=5000 if folder.name == "pruned" else 2,
        )  # fmt: skip
        (folder / "config.json").write_text(json.dumps({"neural_network": config}))
    answers = []
    environment = clean_environment() | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(
        [sys.executable, "-m", "trainer.cli", "--serve"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    ) as worker:  # fmt: skip
        assert worker.stdin is not None
        assert worker.stdout is not None
        watchdog = threading.Timer(100, worker.kill)
        watchdog.start()
        try:
            for folder in folders:
                worker.stdin.write(json.dumps({"run": str(folder)}) + "\n")
                worker.stdin.flush()
                if folder.name == "pruned":
                    while not (folder / "out_test.txt").exists():
                        time.sleep(0.05)
                        assert worker.poll() is None
                    worker.stdin.write(json.dumps({"stop": True}) + "\n")
                    worker.stdin.flush()
                answers.append(json.loads(worker.stdout.readline()))
        finally:
            worker.stdin.close()
            worker.wait(timeout=30)
            watchdog.cancel()
    assert [answer["exit_code"] for answer in answers] == [0, 143, 0, 0]
    assert all(answer["reusable"] for answer in answers)
    # the same process, the same numbers
    lines = [score_lines(folder).tolist() for folder in (folders[0], folders[2], folders[3])]
    for line in lines[1:]:
        assert line == [pytest.approx(numbers, rel=0.05, abs=0.02) for numbers in lines[0]]
