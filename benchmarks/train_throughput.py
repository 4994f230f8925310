"""Compares images a second of `rmldnn`'s training and of plain PyTorch loops.

The same network, loss, optimizer and images in the same run. The plain loops are those of
`plain.py`: (a) with the whole set on the device, (b) with a DataLoader of as many workers as
cores. Ours are our Trainer over our Batches: on a GPU with its step captured as a CUDA graph, and
eager. Variants take turns, after epochs that don't count; figures are medians. Then where the time
of one of our steps goes. Run it with

    python benchmarks/train_throughput.py [--network resunet] [--size 128] [--data DIR]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import describe, num_cores, wait_for
from ours import Ours, compose
from pairs import Pairs, write_images
from plain import Loader, PlainLoop, resident
from step_profile import Profile, profile_step

from trainer.compute.device import choose_device, compute_stream
from trainer.config import parse_config
from trainer.data.dataset import Resolve, load_data
from trainer.log import Log

LEARNING_RATE = 1e-4
LOSS = "BCE"
RESIDENT, LOADER = "plain, resident (a)", "plain, DataLoader (b)"
# On a GPU batches of each size are captured at their fourth step.
WARM_UP_EPOCHS = {"cpu": 1, "cuda": 4}


@dataclass(frozen=True)
class Setup:
    """What all variants share."""

    folder: Path
    network: str
    size: int
    batch_size: int
    device: torch.device

    def ours(self, precisions: list[str]) -> dict[str, Ours]:
        """Return our variants by name; each has a network of its own."""
        variants, data = {}, None
        for precision in precisions:
            for cuda_graph in (True, False) if self.device.type == "cuda" else (False,):
                config = parse_config({"neural_network": self._config(precision, cuda_graph)})
                resolve = Resolve(Path())
                data = data or load_data(config.data, resolve, Log(silent=True))
                name = f"rmldnn {precision}"
                if self.device.type == "cuda":
                    name += ", captured" if cuda_graph else ", eager"
                variants[name] = compose(config, data, resolve, self.device, _log_of(name))
        return variants

    def _config(self, precision: str, cuda_graph: bool) -> dict[str, Any]:
        data = {
            "input_path": str(self.folder / "train/inputs"),
            "target_path": str(self.folder / "train/targets"),
            "target_is_mask": True,
            "batch_size": self.batch_size,
            "transforms": [{"resize": [self.size, self.size]}],
            "cache": "off",
        }
        return {
            "layers": self.network,
            "data": data,
            "optimizer": {"type": "Adam", "learning_rate": LEARNING_RATE},
            "loss": {"function": LOSS},
            "precision": precision,
            "cuda_graph": cuda_graph,
        }

    def plain(self) -> dict[str, Callable[[], object]]:
        """Return an epoch of each plain loop."""

        def loop() -> PlainLoop:
            return PlainLoop(
                self.network, self.size, self.device, loss=LOSS, learning_rate=LEARNING_RATE
            )

        on_device = Pairs(self.folder, self.size).on(self.device)
        loader = Loader(self.folder, self.size, self.batch_size, self.device, num_cores())
        one, other = loop(), loop()
        return {
            RESIDENT: lambda: one.train(resident(*on_device, self.batch_size)),
            LOADER: lambda: other.train(loader),
        }


def _log_of(name: str) -> Callable[[str], None]:
    return lambda text: print(f"  {name}: {text}", flush=True)


def measure(setup: Setup, repeats: int, precisions: list[str]) -> dict[str, Any]:
    """Print images a second of each variant and its ratios to (a) and to the faster plain loop.

    Seconds of CPU an image beside it, of the training process alone: they tell on a machine that
    others use as well.
    """
    ours = setup.ours(precisions)
    epochs = setup.plain()
    for name, variant in ours.items():
        epochs[name] = lambda trainer=variant.trainer: trainer.run_epoch(1)
    num_images = len(Pairs(setup.folder, setup.size))
    rates: dict[str, list[float]] = {name: [] for name in epochs}
    cpu_s: dict[str, list[float]] = {name: [] for name in epochs}
    warm_up = WARM_UP_EPOCHS[setup.device.type]
    for repeat in range(-warm_up, repeats):
        for name, epoch in epochs.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            epoch()
            wait_for(setup.device)
            if repeat >= 0:
                rates[name].append(num_images / (time.perf_counter() - started))
                cpu_s[name].append((time.process_time() - cpu_started) / num_images)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best_plain = max(medians[RESIDENT], medians[LOADER])
    print(f"  {'':26}   images/s   ms a step   to (a)   to the faster   CPU s an image")
    for name, rate in medians.items():
        cpu = statistics.median(cpu_s[name])
        print(
            f"  {name:26} {rate:10.2f} {setup.batch_size / rate * 1e3:11.2f}"
            f" {rate / medians[RESIDENT]:8.2f} {rate / best_plain:15.2f} {cpu:16.4f}"
        )
    first = next(iter(ours))
    profile = profile_step(ours[first], num_images / medians[first])
    show(first, profile)
    return {
        "network": setup.network,
        "size": setup.size,
        "batch_size": setup.batch_size,
        "images_per_s": medians,
        "gpu_busy": profile.gpu_busy,
    }


def show(name: str, profile: Profile) -> None:
    """Print where the time of a step goes."""
    parts = ", ".join(f"{part} {ms:.2f} ms" for part, ms in profile.parts_ms.items())
    print(f"  a step, eager, its parts one after the other: {parts}")
    if profile.gpu_busy is not None:
        print(f"  {name}: the GPU computes for {profile.gpu_busy:.0%} of an epoch")
    kind = "operations of the CPU" if profile.gpu_busy is None else "kernels"
    print(f"  {name}: the longest {kind} of an epoch, and their share of all")
    for share, ms, count, operation in profile.longest:
        print(f"    {share:6.1%} {ms:9.2f} ms {count:6d} x {operation[:70]}", flush=True)


def main() -> None:
    """Measure each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="append", help="default: a compact U-Net and RESUNET")
    parser.add_argument("--size", type=int, default=128, help="of the network's input, in pixels")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, help="folder with train/{inputs,targets}")
    parser.add_argument("--precisions", help="fp32,bf16 on a CPU, bf16 on a GPU by default")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--json", type=Path, help="write what was measured into this file, too")
    options = parser.parse_args()
    device = choose_device(options.device)
    print(describe(device), flush=True)
    precisions = options.precisions or ("bf16" if device.type == "cuda" else "fp32,bf16")
    results = []
    with tempfile.TemporaryDirectory() as name, compute_stream(device):
        folder = options.data or write_images(Path(name), options.images, options.size)
        for network in options.network or ["unet:width=16,depth=4", "resunet"]:
            print(f"{network}, {options.size}x{options.size}, batches of {options.batch_size}")
            setup = Setup(folder, network, options.size, options.batch_size, device)
            results.append(measure(setup, options.repeats, precisions.split(",")))
            if options.json:  # after each: what is killed later has left these
                options.json.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
