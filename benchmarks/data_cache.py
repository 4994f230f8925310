"""Measures how soon a worker's first training step is done: no cache, an empty one, a full one.

Each figure is the median of several processes that read the data, make the batches of one epoch
and end; the variants take turns, so that a busy machine slows all of them. `load` is the time
inside `load_data`, `start` that of the whole process with its imports, `epoch` that of turning
every image into a batch once. Run it with

    python benchmarks/data_cache.py [--data DIR --resize H,W] [--repeats 7]

Without `--data` it writes 160 + 40 images of 64×64, the size of the demo.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

WORKER = """
import json, sys, time
from pathlib import Path
import torch
from trainer.loading.batches import Batches
from trainer.config import parse_config
from trainer.data.dataset import Resolve, load_data
from trainer.log import Log
config = parse_config(json.loads(sys.argv[1]), "benchmark")
started = time.perf_counter()
data = load_data(config.data, Resolve(Path()), Log(silent=True))
loaded = time.perf_counter()
batches = Batches(data.train, batch_size=8, device=torch.device("cpu"), continuous=False)
for batch in map(batches.make, batches.epoch(seed=0, epoch=0)):
    batch.inputs_NCHW.sum()
ended = time.perf_counter()
print(json.dumps({"load": loaded - started, "epoch": ended - loaded}))
"""
VARIANTS = ("off", "cold", "warm")


def write_images(root: Path) -> Path:
    """Write images like the demo's: gray noise with a disc."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    for part, number in (("train", 160), ("test", 40)):
        for kind in ("inputs", "targets"):
            (root / part / kind).mkdir(parents=True)
        for index in range(number):
            y, x, radius = rng.uniform((20, 20, 8), (44, 44, 18))
            disc = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
            image = np.clip(rng.normal(np.where(disc, 70, 150), 25), 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / part / "inputs" / f"{index:03d}.png"), image)
            mask = disc.astype(np.uint8) * 255
            cv2.imwrite(str(root / part / "targets" / f"{index:03d}.png"), mask)
    return root


def run_once(data: Path, size: list[int], cache: str) -> dict[str, float]:
    """Start a worker and return its seconds."""
    section = {
        "input_path": str(data / "train/inputs"),
        "target_path": str(data / "train/targets"),
        "test_input_path": str(data / "test/inputs"),
        "test_target_path": str(data / "test/targets"),
        "target_is_mask": True,
        "grayscale": True,
        "transforms": [{"resize": size}],
        "cache": cache,
    }
    network = {"layers": "unet", "data": section, "loss": {"function": "Dice"}}
    config = json.dumps({"neural_network": network})
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", WORKER, config], capture_output=True, text=True, check=True
    )
    seconds: dict[str, float] = json.loads(done.stdout)
    return seconds | {"start": time.perf_counter() - started}


def main() -> None:
    """Print the seconds of each variant, and the ratios against no cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with {train,test}/{inputs,targets}")
    parser.add_argument("--resize", default="64,64", help="H,W")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    size = [int(side) for side in options.resize.split(",")]
    seconds: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as name:
        data = options.data or write_images(Path(name) / "data")
        cache = Path(name) / "cache"
        run_once(data, size, "off")  # the files into the page cache
        for _ in range(options.repeats):
            shutil.rmtree(cache, ignore_errors=True)
            for variant in VARIANTS:
                setting = "off" if variant == "off" else str(cache)
                seconds[variant].append(run_once(data, size, setting))
    shown = f"{data.name}, {size[0]}x{size[1]}" if options.data else "200 images of 64x64"
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS={threads}; {shown}")
    print(f"medians of {options.repeats} in ms, and their ratio to no cache")
    for variant in VARIANTS:
        figures = []
        for key in ("load", "epoch", "start"):
            median, off = (
                statistics.median(run[key] for run in seconds[which]) for which in (variant, "off")
            )
            figures.append(f"{key} {median * 1000:8.1f} ({median / off:4.2f})")
        print(f"cache {variant:5}  {'   '.join(figures)}")


if __name__ == "__main__":
    main()
