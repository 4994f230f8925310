"""Nothing in a step or an evaluation reads a value back: a GPU would have to be waited for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support import data_section
from tape import Operators
from torch import nn
from worker import Worker, write_pairs

from trainer.commands import run
from trainer.networks import network_json, parse_network
from trainer.networks.module import KerasModule, build_module
from trainer.training import readback
from trainer.training.readback import Readback


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect what would wait in each training epoch and in each batch of an evaluation."""
    waits: list[str] = []
    epoch, batch = run.Trainer.run_epoch, run.Evaluator._evaluate

    def watch(function, *args):
        with Operators() as operators:
            result = function(*args)
        assert operators.calls
        waits.extend(operators.waits)
        return result

    monkeypatch.setattr(run.Trainer, "run_epoch", lambda self, number: watch(epoch, self, number))
    monkeypatch.setattr(run.Evaluator, "_evaluate", lambda self, *args: watch(batch, self, *args))
    return waits


LOSSES = ["NLL", "BCE", "MSE", "Dice", "Jaccard", "Focal", "Lovasz"]
FLIPS = [{"resize": [32, 32]}, {"random_vertical_flip": 0.5}, {"random_affine": 0.1}]


@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize("num_classes", [2, 3])
def test_no_loss_waits(
    worker: Worker, tmp_path: Path, watched: list[str], function: str, num_classes: int
) -> None:
    values = np.repeat(np.arange(num_classes, dtype=np.uint8), 32 * 32 // num_classes + 1)[:1024]
    data = write_pairs(tmp_path / "data", [values.reshape(32, 32)] * 4)
    weight = None if function == "Lovasz" else [1.0] * num_classes
    loss = {"function": function, "weight": weight, "ignore_index": num_classes + 1}
    worker(
        data={**data_section(data), "transforms": FLIPS, "mask_values": [*range(num_classes)]},
        loss={key: value for key, value in loss.items() if value is not None},
    ).succeeded()
    assert watched == []


@pytest.mark.parametrize(
    "data",
    [
        {"tiles": {"size": [16, 16], "overlap": 0.25, "per_image": 2}, "transforms": []},
        {"intensity_range": [0, 200]},
        {
            "transforms": [{"resize": [32, 32]}, {"random_patches": {"number": 3, "size": 5}}],
            "target_grayscale": True,
            "target_is_mask": None,
        },
        {"transforms": [{"resize": [32, 32]}, {"normalize": {"mean": 0.5, "std": 0.2}}]},
    ],
    ids=str,
)
@pytest.mark.parametrize("optimizer", ["adam", "lamb", "lars", "adagrad"])
def test_no_kind_of_batch_and_no_optimizer_waits(
    worker: Worker, watched: list[str], data: dict, optimizer: str
) -> None:
    settings = {f"data__{key}": value for key, value in data.items()}
    worker(optimizer={"type": optimizer, "learning_rate": 0.01}, **settings).succeeded()
    assert watched == []


def test_figures_come_in_order_and_never_more_than_two_groups_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU that is slower than the host: no copy has arrived when it is asked for."""

    class Slow:
        num_waits = 0

        def record(self) -> None: ...

        def query(self) -> bool:
            return False

        def synchronize(self) -> None:
            Slow.num_waits += 1

    monkeypatch.setattr(readback, "_NoEvent", Slow)
    found: list[tuple[int, list[float]]] = []
    several: Readback[int] = Readback(torch.device("cpu"), 2, steps_a_group=4)
    for number in range(30):
        several.add(number, torch.tensor([number, -number], dtype=torch.float32))
        found += several.arrived()
        assert number - len(found) < 3 * 4
    assert 0 < Slow.num_waits < 30 // 4
    found += several.arrived(all_of_them=True)
    assert found == [(number, [number, -number]) for number in range(30)]


def train_step(network: KerasModule, inputs: torch.Tensor, *, together: bool) -> None:
    network.train()
    if together:
        with network.running_variances().corrected():
            network.logits(inputs).square().sum().backward()
    else:
        network.logits(inputs).square().sum().backward()


@pytest.mark.parametrize("name", ["resunet", "efficientunet", "unet:width=2,depth=2"])
def test_running_variances_corrected_together_are_those_of_each_layer(name: str) -> None:
    shape, networks = (32, 32, 3), []
    for together in (True, False):
        torch.manual_seed(0)
        network = build_module(parse_network(network_json(name, shape, 1), name), shape)
        for seed in range(3):
            torch.manual_seed(seed)
            train_step(network, torch.rand(2, 3, 32, 32), together=together)
        networks.append(network)
    one, other = (dict(network.named_buffers()) for network in networks)
    assert any(key.endswith("running_var") for key in one) or not any(
        isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in networks[0].modules()
    )
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=2e-6, atol=1e-9)
