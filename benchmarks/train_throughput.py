"""Compares images a second, with their data, of `rmldnn` and of a plain PyTorch loop.

The same network, loss, optimizer and images in the same run. Ours are our Trainer over our Batches
(images decoded once, before). The plain loop is what one writes first: a Dataset that decodes and
resizes each item by OpenCV, a DataLoader with 0 or 2 workers, `network(x)`, `backward`, `step`.
Variants take turns, after one epoch each that doesn't count; figures are medians. Then the parts
of one of our steps, and torch's own operations that take longest. Run it with

    python benchmarks/train_throughput.py [--network resunet] [--size 128] [--data DIR]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trainer.batches import Batches
from trainer.config import Adam, Loss, parse_config
from trainer.data.dataset import Resolve, load_data
from trainer.log import Log
from trainer.losses import build_loss
from trainer.memory import BatchFitter
from trainer.networks import network_json, parse_network
from trainer.networks.module import build_module
from trainer.optimizers import build_optimizer
from trainer.parallel import ALONE
from trainer.training import Trainer

LEARNING_RATE = 1e-4
OPERATIONS_SHOWN = 8


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Decodes an image and its mask for each item."""

    def __init__(self, folder: Path, size: int) -> None:
        self._inputs = sorted((folder / "train/inputs").iterdir())
        self._targets = sorted((folder / "train/targets").iterdir())
        self._size = (size, size)

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = cv2.resize(cv2.imread(str(self._inputs[index])), self._size)
        mask = cv2.imread(str(self._targets[index]), cv2.IMREAD_GRAYSCALE)
        mask = cv2.resize(mask, self._size, interpolation=cv2.INTER_NEAREST)
        inputs = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        return inputs, torch.from_numpy((mask > 127).astype(np.int64))


def write_images(root: Path, num_images: int, size: int) -> Path:
    """Write smooth noise as JPEG, twice as large as the network's input, and discs as masks."""
    rng = np.random.default_rng(0)
    side = 2 * size
    rows, columns = np.mgrid[:side, :side]
    for kind in ("inputs", "targets"):
        (root / "train" / kind).mkdir(parents=True)
    for index in range(num_images):
        y, x, radius = rng.uniform((0.3, 0.3, 0.1), (0.7, 0.7, 0.3)) * side
        mask = ((rows - y) ** 2 + (columns - x) ** 2 < radius**2).astype(np.uint8) * 255
        noise = cv2.resize(rng.integers(0, 120, (side // 8, side // 8, 3), np.uint8), (side, side))
        cv2.imwrite(str(root / f"train/inputs/{index:03d}.jpg"), noise + (mask // 3)[:, :, None])
        cv2.imwrite(str(root / f"train/targets/{index:03d}.png"), mask)
    return root


class Timers:
    """Adds up the seconds spent inside functions."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: object, **kwargs: object) -> Any:
            started = self._now()
            try:
                return function(*args, **kwargs)
            finally:
                self.add(name, self._now() - started)

        return timed

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class TimedBatches:
    """Batches that add the time of their making."""

    def __init__(self, batches: Batches, timers: Timers) -> None:
        self._batches = batches
        self._timers = timers

    def __len__(self) -> int:
        return len(self._batches)

    def shuffled(self, *, seed: int, epoch: int) -> Iterator[Any]:
        batches = self._batches.shuffled(seed=seed, epoch=epoch)
        following = self._timers.wrap("data", lambda: next(batches, None))
        while (batch := following()) is not None:
            yield batch


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all variants share."""

    folder: Path
    network: str
    size: int
    batch_size: int
    device: torch.device

    def build(self) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        torch.manual_seed(0)
        shape = (self.size, self.size, 3)
        graph = parse_network(network_json(self.network, shape, 1), self.network)
        network = build_module(graph, shape).to(self.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        return network, optimizer, build_loss(Loss(function="BCE"), "sigmoid", 1)

    def ours(self, precision: torch.dtype) -> Trainer:
        network, _, loss = self.build()
        network.to(memory_format=torch.channels_last)
        optimizer = build_optimizer(
            Adam(type="Adam", learning_rate=LEARNING_RATE), network.parameters()
        )
        data = {
            "input_path": str(self.folder / "train/inputs"),
            "target_path": str(self.folder / "train/targets"),
            "target_is_mask": True,
            "transforms": [{"resize": [self.size, self.size]}],
            "cache": "off",
        }
        config = {"layers": self.network, "data": data, "loss": {"function": "BCE"}}
        loaded = load_data(
            parse_config({"neural_network": config}).data, Resolve(Path()), Log(silent=True)
        )
        assert loaded.train is not None
        batches = Batches(
            loaded.train, batch_size=self.batch_size, device=self.device, continuous=False
        )
        return Trainer(
            network=network,  # type: ignore[arg-type]
            batches=batches,
            loss=loss,
            optimizer=optimizer,
            precision=precision,
            device=self.device,
            world=ALONE,
            fitter=BatchFitter(self.batch_size, 1, False, list, print),
            seed=0,
            started=time.monotonic(),
            record=lambda steps: None,
            log_batch=lambda *args: None,
        )

    def plain(self, num_workers: int) -> Callable[[], None]:
        network, optimizer, loss_function = self.build()
        loader = DataLoader(
            Pairs(self.folder, self.size),
            batch_size=self.batch_size,
            shuffle=True,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=self.device.type == "cuda",
        )

        def epoch() -> None:
            network.train()
            total = torch.zeros((), device=self.device)
            for inputs, targets in loader:
                inputs, targets = inputs.to(self.device), targets.to(self.device)
                optimizer.zero_grad()
                loss = loss_function(network.logits(inputs), targets)  # type: ignore[operator]
                loss.backward()
                optimizer.step()
                total += loss.detach()
            total.item()

        return epoch


def show_step(trainer: Trainer) -> None:
    """Print the parts of a step, then the operations that take longest."""
    timers = Timers(trainer.device)
    forward, step = trainer.network.logits, trainer.optimizer.step
    trainer.network.logits = timers.wrap("forward", forward)  # type: ignore[method-assign]
    trainer.optimizer.step = timers.wrap("optimizer", step)  # type: ignore[method-assign]
    timed = dataclasses.replace(
        trainer,
        batches=TimedBatches(trainer.batches, timers),  # type: ignore[arg-type]
    )
    timers.wrap("all", timed.run_epoch)(3)
    parts = timers.seconds
    parts["loss, backward, norm"] = 2 * parts["all"] - sum(parts.values())
    num_steps = len(trainer.batches)
    shown = ("data", "forward", "loss, backward, norm", "optimizer")
    print(
        "  one step: "
        + ", ".join(f"{k} {parts[k] / num_steps * 1e3:.1f} ms" for k in shown)
        + f" (data {parts['data'] / parts['all']:.1%})"
    )
    del trainer.network.logits, trainer.optimizer.step
    with torch.profiler.profile() as profile:
        trainer.run_epoch(4)
    events = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    for event in itertools.islice(events, OPERATIONS_SHOWN):
        share = event.self_cpu_time_total / total
        print(f"    {share:6.1%}  {event.count:5d} × {event.key[:60]}")


def measure(setup: Setup, repeats: int, precisions: list[torch.dtype]) -> None:
    """Print images a second of each variant, and its ratio to the faster plain loop.

    Seconds of CPU an image beside it, of the training process alone: they tell on a machine that
    others use as well.
    """
    trainers = {f"rmldnn {str(p).removeprefix('torch.')}": setup.ours(p) for p in precisions}
    epochs: dict[str, Callable[[], object]] = {
        f"plain, {number} workers": setup.plain(number) for number in (0, 2)
    }
    for name, trainer in trainers.items():
        epochs[name] = lambda trainer=trainer: trainer.run_epoch(1)
    num_images = len(Pairs(setup.folder, setup.size))
    rates: dict[str, list[float]] = {name: [] for name in epochs}
    cpu_s: dict[str, list[float]] = {name: [] for name in epochs}
    for repeat in range(repeats + 1):
        for name, epoch in epochs.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            epoch()
            if setup.device.type == "cuda":
                torch.cuda.synchronize()
            if repeat:
                rates[name].append(num_images / (time.perf_counter() - started))
                cpu_s[name].append((time.process_time() - cpu_started) / num_images)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best_plain = max(value for name, value in medians.items() if name.startswith("plain"))
    for name, value in medians.items():
        cpu = statistics.median(cpu_s[name])
        print(f"  {name:20} {value:8.2f} images/s {value / best_plain:6.2f}   CPU {cpu:.4f} s")
    show_step(next(iter(trainers.values())))


def main() -> None:
    """Measure each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="append", help="default: a compact U-Net and RESUNET")
    parser.add_argument("--size", type=int, default=128, help="of the network's input, in pixels")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, help="folder with train/{inputs,targets}")
    parser.add_argument("--precisions", default="float32,bfloat16")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(
        f"{where}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.__version__}"
    )
    precisions = [getattr(torch, name) for name in options.precisions.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = options.data or write_images(Path(name), options.images, options.size)
        for network in options.network or ["unet:width=16,depth=4", "resunet"]:
            print(f"{network}, {options.size}x{options.size}, batches of {options.batch_size}")
            setup = Setup(folder, network, options.size, options.batch_size, device)
            measure(setup, options.repeats, precisions)


if __name__ == "__main__":
    main()
