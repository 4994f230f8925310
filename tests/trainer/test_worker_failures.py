"""A worker that fails or is stopped says so in one line, exits as designed, leaves whole files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support import BIN, clean_environment, data_section, one_error, require, write_discs
from worker import Result, base_config, write_json


def test_memory_that_is_short_ends_with_4_and_names_the_batch(worker, monkeypatch) -> None:
    from trainer.networks.module import KerasModule

    shortages = [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore lines"),
        MemoryError(),
        # what CUDA and its libraries allocate beside torch
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ]
    for shortage in shortages:

        def fail(self: object, x: object, error: Exception = shortage) -> None:
            raise error

        monkeypatch.setattr(KerasModule, "logits", fail)
        error = worker().error(code=4)
        assert "data.batch_size=4" in error
        assert "and with 1" in error
        assert error.count("\n") == 1


def limited(limit_bytes: int, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the worker with less memory than it wants, once its libraries are loaded."""
    code = (
        # what optimizers import, too
        "import resource, sys, torch._dynamo, trainer.commands.run\n"
        "from trainer.cli import main\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {limit_bytes},) * 2)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd, env=clean_environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_real_shortage_of_memory_ends_with_4(discs: Path, tmp_path: Path) -> None:
    config = base_config(discs)
    config["neural_network"] |= {"layers": "unet:width=32,depth=3"}
    config["neural_network"]["data"] |= {"transforms": [{"resize": [512, 512]}], "batch_size": 12}
    write_json(tmp_path / "config.json", config)
    result = limited(300 * 2**20, "--config=config.json", cwd=tmp_path)
    error = one_error(result, code=4)
    assert "data.batch_size=12" in error
    assert "alloc_cpu.cpp" not in error


def test_shortage_names_the_batch_that_fits_and_halving_it_trains_alike(tmp_path: Path) -> None:
    """A real limit: the named batch trains under it, and so does the whole one in pieces."""
    discs = write_discs(tmp_path / "data", num_train=16, num_test=1, size=256)
    config = base_config(discs)
    network = config["neural_network"]
    # No BatchNorm, and a mean over pixels: what pieces compute exactly.
    network |= {"layers": layers_without_statistics(), "loss": {"function": "BCE"}}
    network["data"] |= {"transforms": [], "batch_size": 16, "test_batch_size": 1}
    limit = 260 * 2**20  # 16 samples want some 470 MB, 8 half of it

    def train(folder: str, limit_bytes: int, **data: object) -> Result:
        network["data"] |= data
        (tmp_path / folder).mkdir()
        write_json(tmp_path / folder / "config.json", config)
        done = limited(limit_bytes, "--config=config.json", cwd=tmp_path / folder)
        return Result.of(done.returncode, done.stdout, done.stderr, tmp_path / folder)

    free = train("free", 2**40).succeeded()
    error = train("short", limit).error(code=4)
    assert "data.batch_size=16: " in error
    size = int(re.search(r"(\d+) fits", error)[1])
    assert size in (8, 4, 2, 1)
    halved = train("halved", limit, halve_batch_on_oom=True).succeeded()
    assert f"pieces of {size}," in halved.out
    assert halved.metrics[0]["samples_at_once"] == size
    assert halved.losses == pytest.approx(free.losses, rel=1e-4)
    assert halved.accuracies == pytest.approx(free.accuracies, abs=1e-3)
    train("small", limit, halve_batch_on_oom=False, batch_size=size).succeeded()


def layers_without_statistics() -> list[dict[str, object]]:
    shape = {"batch_input_shape": [None, 256, 256, 1]}
    return [
        {
            "class_name": "Conv2D",
            "config": {"name": f"conv{i}", "filters": filters, "kernel_size": [3, 3]}
            | {"padding": "same", "activation": activation, **(shape if i == 1 else {})},
        }
        for i, (filters, activation) in enumerate(
            [(16, "relu"), (16, "relu"), (16, "relu"), (1, "sigmoid")], 1
        )
    ]


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / "rmldnn"), "--config=config.json"], cwd=folder, env=clean_environment(),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("after_lines", [0, 2])
def test_sigterm_ends_with_143_at_once_and_leaves_whole_files(
    discs, tmp_path, after_lines
) -> None:
    config = base_config(discs)
    config["neural_network"] |= {"num_epochs": 100_000, "checkpoints": {"save": "ck"}}
    write_json(tmp_path / "config.json", config)
    process = start(tmp_path)
    log = tmp_path / "out_test.txt"
    assert process.stdout is not None
    while after_lines == 0 and "Device(s)" not in process.stdout.readline():
        pass
    while after_lines and (not log.exists() or log.read_text().count("\n") < after_lines):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=30)  # 100,000 epochs would take longer
    assert process.returncode == 143
    assert error == "rmldnn: stopped on request (SIGTERM)\n"
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    for path in (tmp_path / "ck").glob("*.pt"):
        assert torch.load(path, weights_only=True)["format"] == 1
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if log.exists() else []:
        assert json.loads(line)["epoch"]


def test_reader_that_goes_away_ends_the_run_without_a_traceback(discs, tmp_path) -> None:
    write_json(tmp_path / "config.json", base_config(discs))
    process = start(tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 1


def test_full_disk_behind_the_log_is_one_clear_error(discs: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", base_config(discs))
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [str(BIN / "rmldnn"), "--config=config.json"], cwd=tmp_path, stdout=full,
            env=clean_environment(), stderr=subprocess.PIPE, text=True, timeout=120,
        )  # fmt: skip
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in result.stderr


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 64 kB, where the machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        require("mount", "only root may mount a small disk")
    yield disk
    # Lazily: the kernel may hold a file of a process that has just ended.
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize(
    ("section", "file"),
    [
        ({"checkpoints": {"save": "disk/ck"}, "layers": "unet:width=8,depth=2"}, "model_checkp"),
        ({"data": {"test_output_path": "disk/p"}, "num_epochs": 1}, "output_1.h5"),
        ({"outfile": "disk/out.txt", "num_epochs": 3000}, ""),
    ],
    ids=["checkpoint", "predictions", "logs"],
)
def test_full_disk_is_one_clear_error(small_disk, discs, tmp_path, run, section, file) -> None:
    config = base_config(discs)["neural_network"]
    data = data_section(discs) | section.pop("data", {})
    write_json(tmp_path / "config.json", {"neural_network": config | section | {"data": data}})
    (small_disk / "filler").write_bytes(bytes(48 * 1024))
    error = one_error(run("rmldnn", "--config=config.json"), code=1)
    assert file in error
    assert "No space left" in error or "cannot be written" in error
    assert error.count("\n") == 0
    assert not [path for path in small_disk.rglob("*") if path.name.endswith(".tmp")]


def test_folder_that_nobody_can_make_is_one_clear_error(worker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file: cannot be made a folder" in worker(outfile="file/out.txt").error(code=1)
    error = worker(data__test_output_path="file/p").error(code=1)
    assert "cannot be made a folder" in error


def test_mistake_in_the_config_does_not_wait_for_torch(discs: Path, tmp_path: Path) -> None:
    config = base_config(discs)
    config["neural_network"]["loss"]["function"] = "dise"
    write_json(tmp_path / "config.json", config)
    code = (
        "import sys\nfrom trainer.cli import main\n"
        "assert main(['--config=config.json']) == 2\nsys.exit('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=clean_environment(), capture_output=True
    )
    assert result.returncode == 0
