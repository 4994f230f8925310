"""The worker on a GPU: every kind of data, resumed, scored, with several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu_runs import (
    attempt,
    checkpoint,
    config_of,
    kinds_of_data,
    metrics,
    run,
    score_lines,
    train_losses,
)
from support import clean_environment, data_section

from trainer.config.loss import LOSSES

# Of losses, relative; of Dice. In float32 a few steps' rounding, in bfloat16 its 8 bits and what
# Adam makes of them; one pixel of these images is 0.001 of Dice.
TOLERANCES = {"fp32": (0.01, 0.01), "bf16": (0.15, 0.15)}
KINDS = ["images", "colour", "tiles", "16 bits", "numpy", "HDF5", "slices", "labels"]
SCHEDULERS = [
    {"type": "Step", "gamma": 0.5, "step_size": 1},
    {"type": "MultiStep", "gamma": 0.1, "milestones": [1]},
    {"type": "Exponential", "gamma": 0.9},
    {"type": "Warmup", "num_epochs": 2, "start_factor": 0.2},
]
AGAIN = {"checkpoints": {"save": "ck", "resume": True}}


def assert_alike(one: Path, other: Path, precision: str = "fp32") -> None:
    loss, dice = TOLERANCES[precision]
    np.testing.assert_allclose(train_losses(one), train_losses(other), rtol=loss, atol=loss)
    ours, theirs = score_lines(one), score_lines(other)
    np.testing.assert_allclose(ours[:, 0], theirs[:, 0], rtol=loss, atol=loss)
    np.testing.assert_allclose(ours[:, 1], theirs[:, 1], atol=dice)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Any]:
    return kinds_of_data(tmp_path_factory.mktemp("kinds"), data)


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_data_trains_as_on_the_cpu(
    kind: str, precision: str, kinds: dict, device: torch.device, tmp_path: Path
) -> None:
    section, layers = kinds[kind]
    is_classification = kind == "labels"
    loss = {"function": "NLL" if is_classification else "BCE"}
    section = section | {"test_output_path": "predicted"}
    run(tmp_path / "cpu", "cpu", section, layers=layers, loss=loss)
    run(tmp_path / "gpu", device, section, layers=layers, loss=loss, precision=precision)
    assert (tmp_path / "gpu/predicted/output_1.h5").exists()
    if is_classification:  # eight images: one is an eighth
        np.testing.assert_allclose(
            train_losses(tmp_path / "gpu"), train_losses(tmp_path / "cpu"), rtol=0.05, atol=0.05
        )
        return
    assert_alike(tmp_path / "gpu", tmp_path / "cpu", precision)


@pytest.mark.parametrize("function", LOSSES)
def test_loss_trains_as_on_the_cpu(
    function: str, data: Path, device: torch.device, tmp_path: Path
) -> None:
    # Adam and LAMB divide a gradient by its size: of a weight whose gradient is rounding (a bias
    # before a batch normalization) they make a whole step. SGD leaves the rounding as it is.
    optimizer = {"type": "sgd", "learning_rate": 0.1, "momentum": 0.9}
    for name, where in (("cpu", "cpu"), ("gpu", device)):
        run(
            tmp_path / name, where, data_section(data),
            loss={"function": function}, optimizer=optimizer,
        )  # fmt: skip
    assert_alike(tmp_path / "gpu", tmp_path / "cpu")


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda one: one["type"])
@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
def test_schedule_is_followed(
    scheduler: dict, graph: bool, data: Path, device: torch.device, tmp_path: Path
) -> None:
    optimizer = {"type": "sgd", "learning_rate": 0.1, "momentum": 0.9, "lr_scheduler": scheduler}
    runs = {
        name: run(
            tmp_path / name, where, data_section(data, batch_size=2),
            optimizer=optimizer, cuda_graph=graph, num_epochs=3,
        )
        for name, where in (("cpu", "cpu"), ("gpu", device))
    }  # fmt: skip
    rates = [[line["learning_rate"] for line in lines] for lines in runs.values()]
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 1
    assert_alike(tmp_path / "gpu", tmp_path / "cpu")


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_recorded_dice_comes_out_again_on_the_cpu(
    precision: str, data: Path, device: torch.device, tmp_path: Path
) -> None:
    """To 0.002: one pixel that is a rounding away from the threshold."""
    run(
        tmp_path / "gpu", device, data_section(data),
        precision=precision, num_epochs=4, checkpoints={"save": "ck"},
    )  # fmt: skip
    recorded = metrics(tmp_path / "gpu")[-1]
    load = {"load": str(tmp_path / "gpu/ck/model_checkpoint_4.pt")}
    test_only = {
        key: value
        for key, value in data_section(data).items()
        if key not in ("input_path", "target_path")
    }
    again = run(tmp_path / "cpu", "cpu", test_only, checkpoints=load)[-1]
    for figure in ("dice_dataset", "dice_per_image"):
        assert again[figure] == pytest.approx(recorded[figure], abs=2e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adagrad", "adam", "lars", "lamb"])
@pytest.mark.parametrize("places", [(1, 1), (0, 1), (1, 0)], ids=["there", "to", "fro"])
def test_resumed_run_ends_alike(
    optimizer: str, places: tuple[int, int], data: Path, device: torch.device, tmp_path: Path
) -> None:
    # RMSprop's first steps are of ten times the rate, whatever the gradient's size
    rate = 0.002 if optimizer == "rmsprop" else 0.02
    section = {"type": optimizer, "learning_rate": rate, "lr_scheduler": SCHEDULERS[2]}
    where = ("cpu", device)
    changes = {"optimizer": section, "loss": {"function": "BCE"}, **AGAIN}
    run(tmp_path / "whole", where[places[1]], data_section(data), num_epochs=4, **changes)
    for num_epochs, place in zip((2, 4), places, strict=True):
        run(
            tmp_path / "parts", where[place], data_section(data),
            num_epochs=num_epochs, **changes,
        )  # fmt: skip
    if places == (1, 1):
        assert_alike(tmp_path / "parts", tmp_path / "whole")
        ours, theirs = (checkpoint(tmp_path / name, 4) for name in ("parts", "whole"))
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-3)
    else:  # a weight whose gradient is rounding has another one on another device
        assert_alike(tmp_path / "parts", tmp_path / "whole", "bf16")


@pytest.mark.parametrize("halved", [True, False])
def test_memory_that_is_short(
    halved: bool, data: Path, gpu: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A real shortage: pieces of the batch, or one clear error with the size that fits."""
    total = torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved(gpu) + 2**29
    torch.cuda.set_per_process_memory_fraction(limit / total, gpu)
    try:
        section = data_section(
            data, batch_size=14, transforms=[{"resize": [256, 256]}], halve_batch_on_oom=halved
        )
        code = attempt(
            tmp_path,
            config_of(section, layers="unet:width=32,depth=2", device="cuda", num_epochs=1),
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu)
    printed = capsys.readouterr()
    assert code == (0 if halved else 4), printed.err
    if halved:
        assert "summed over pieces of" in printed.out
    else:
        assert "fits, as a trial has shown" in printed.err
        assert "Traceback" not in printed.err


@pytest.mark.parametrize("num_processes", [2])
def test_data_parallel_gives_the_numbers_of_one_process(
    num_processes: int, data: Path, device: torch.device, tmp_path: Path
) -> None:
    """Over NCCL where there are two GPUs, else over gloo on one."""
    from gpu_runs import conv, sequential

    plain = sequential((32, 32, 1), conv("first", 4, 2, "relu"), conv("last", 1, 2, "sigmoid"))
    section = data_section(data, batch_size=5)
    changes = {"layers": plain, "optimizer": {"type": "sgd", "learning_rate": 0.5}}
    run(tmp_path / "one", device, section, **changes)
    folder = tmp_path / "two"
    folder.mkdir()
    config = config_of(section, device=device.type, **changes)
    (folder / "config.json").write_text(json.dumps({"neural_network": config}))
    result = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--local-addr=127.0.0.1", f"--nproc-per-node={num_processes}"),
            *("-m", "trainer.cli", "--config=config.json"),
        ],
        cwd=folder,
        env=clean_environment() | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    backend = "NCCL" if device.type == "cuda" and torch.cuda.device_count() > 1 else "gloo"
    assert f"Processes: {num_processes} ({backend})" in result.stdout
    if device.type == "cuda":
        assert "CUDA available! Will train on GPU" in result.stdout
        assert "   CUDA:0 (" in result.stdout
    np.testing.assert_allclose(
        train_losses(folder), train_losses(tmp_path / "one"), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        score_lines(folder), score_lines(tmp_path / "one"), rtol=1e-3, atol=2e-3
    )
