"""A batch that is computed again, as memory was short, leaves what an undisturbed one leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from worker import Worker

from trainer.commands.run import _Run
from trainer.compute.memory import BatchFitter
from trainer.networks.torch_layers.normalization import RunningStatistics
from trainer.training.step import TrainingStep

REAL, REAL_FITTER = TrainingStep._backward, _Run._fitter
SAVE = {"save": "ck"}


def weights(worker: Worker, folder: Path, **changes: object) -> dict[str, Tensor]:
    worker(num_epochs=2, checkpoints=SAVE, **changes).succeeded()
    content = torch.load(folder / "ck/model_checkpoint_2.pt", weights_only=True)
    return content["state_dict"]


def short(is_short: Callable[[int], bool]) -> Callable[..., Tensor]:
    """Run out of memory at the end of a try, when its statistics are counted."""

    def backward(self: TrainingStep, inputs: Tensor, *args: object) -> Tensor:
        loss = REAL(self, inputs, *args)
        if is_short(len(inputs)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss

    return backward


def fitted(monkeypatch: pytest.MonkeyPatch, change: Callable[[BatchFitter], None]) -> None:
    def fitter(self: _Run, optimizer: torch.optim.Optimizer) -> BatchFitter:
        made = REAL_FITTER(self, optimizer)
        change(made)
        return made

    monkeypatch.setattr(_Run, "_fitter", fitter)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert any("running_var" in name for name in expected)
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert different == []


def test_try_that_failed_counts_no_statistics(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = weights(worker, tmp_path)
    calls: list[int] = []

    def is_short(size: int) -> bool:
        calls.append(size)
        return len(calls) in (1, 5)

    def has_memory(fitter: BatchFitter) -> None:
        fitter.free = lambda: True

    fitted(monkeypatch, has_memory)
    monkeypatch.setattr(TrainingStep, "_backward", short(is_short))
    assert_same(weights(worker, tmp_path), expected)
    assert len(calls) == 2 * 3 + 2  # two epochs of three batches, and two of them twice


def test_batch_in_pieces_is_counted_in_those_pieces_alone(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_pieces(fitter: BatchFitter) -> None:
        fitter.piece = 1

    def seldom(size: int) -> bool:
        tries.append(size)
        return size > 2 or tries == [4, 2, 2]  # the second piece of two has no room either

    tries: list[int] = []
    halving = {"data__halve_batch_on_oom": True}
    with monkeypatch.context() as patch:
        fitted(patch, in_pieces)
        expected = weights(worker, tmp_path, **halving)
    monkeypatch.setattr(TrainingStep, "_backward", short(seldom))
    assert_same(weights(worker, tmp_path, **halving), expected)
    assert tries[:4] == [4, 2, 2, 1]


def test_statistics_of_torch_s_own_layers_are_brought_back() -> None:
    """A plug-in's network has these."""
    network = nn.Sequential(
        nn.BatchNorm2d(3), nn.InstanceNorm2d(3, track_running_stats=True), nn.Conv2d(3, 1, 1)
    )
    statistics = RunningStatistics(network)
    network(torch.rand(2, 3, 4, 4))
    before = {name: values.clone() for name, values in network.state_dict().items()}
    assert before["0.num_batches_tracked"] == 1
    statistics.keep()
    network(torch.rand(2, 3, 4, 4))
    assert not torch.equal(network.state_dict()["0.running_mean"], before["0.running_mean"])
    statistics.bring_back()
    after = network.state_dict()
    assert [name for name in before if not torch.equal(after[name], before[name])] == []
