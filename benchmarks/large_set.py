"""Trains on a set that does not fit the memory, under a limit, and measures what it took.

3,000 colour images of 1024×1024 (12.6 GB decoded, with their masks) and a limit of 8 GB: the
worker may allocate no more (RLIMIT_DATA: what it only maps from the cache doesn't count, as the
system takes those pages back when it needs them). It decodes them into the cache, trains for one
epoch on crops of 256×256, and evaluates whole images in tiles. Printed are the peak of allocated
memory, that of mapped pages, and the seconds. Needs 20 GB of disk, below `--folder`. Run it with

    python benchmarks/large_set.py [--images 3000] [--size 1024] [--limit-gb 8] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

NUM_DIFFERENT = 16  # images are these, again and again: decoding takes as long
NUM_TEST = 8
TILE = 256


def write_set(root: Path, num_images: int, size: int) -> None:
    """Write smooth noise as JPEG, and a disc as each mask."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    for kind in ("train/inputs", "train/targets", "test/inputs", "test/targets"):
        (root / kind).mkdir(parents=True)
    for number in range(NUM_DIFFERENT):
        y, x, radius = rng.uniform((0.3, 0.3, 0.1), (0.7, 0.7, 0.3)) * size
        mask = ((rows - y) ** 2 + (columns - x) ** 2 < radius**2).astype(np.uint8) * 255
        noise = cv2.resize(rng.integers(0, 120, (size // 8, size // 8, 3), np.uint8), (size, size))
        image = cv2.imencode(".jpg", noise + (mask // 3)[:, :, None])[1].tobytes()
        target = cv2.imencode(".png", mask)[1].tobytes()
        for part, count in (("train", num_images), ("test", NUM_TEST)):
            for index in range(number, count, NUM_DIFFERENT):
                (root / part / "inputs" / f"{index:05d}.jpg").write_bytes(image)
                (root / part / "targets" / f"{index:05d}.png").write_bytes(target)


def write_config(root: Path) -> None:
    """Write a config for crops and tiles of that set."""
    data = {
        "input_path": "train/inputs",
        "target_path": "train/targets",
        "test_input_path": "test/inputs",
        "test_target_path": "test/targets",
        "target_is_mask": True,
        "batch_size": 16,
        "test_batch_size": 16,
        "tiles": {"size": [TILE, TILE]},
        "cache": str(root / "cache"),
    }
    network = {
        "outfile": "out.txt",
        "layers": "unet:width=4,depth=2",
        "data": data,
        "optimizer": {"type": "Adam"},
        "loss": {"function": "Dice"},
    }
    (root / "config.json").write_text(json.dumps({"neural_network": network}))


def memory_kb(process_id: int) -> dict[str, int]:
    """Return what a process has allocated and mapped at this moment."""
    try:
        status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    except FileNotFoundError:
        return {}
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {key: int(fields[key].split()[0]) for key in ("RssAnon", "RssFile") if key in fields}


def main() -> None:
    """Print the peaks and the seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--size", type=int, default=1024, help="of each side, in pixels")
    parser.add_argument("--limit-gb", type=float, default=8.0)
    parser.add_argument("--folder", type=Path, help="on a disk with room for the decoded set")
    options = parser.parse_args()
    limit_bytes = int(options.limit_gb * 10**9)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        root = Path(name)
        write_set(root, options.images, options.size)
        write_config(root)
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer.cli", "--config=config.json"],
            cwd=root,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes,) * 2),
        )
        peaks: dict[str, int] = {}
        while process.poll() is None:
            for key, value in memory_kb(process.pid).items():
                peaks[key] = max(peaks.get(key, 0), value)
            time.sleep(0.05)
        seconds = time.monotonic() - started
        assert process.stdout is not None
        sys.stdout.write(process.stdout.read())
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS={threads}")
    print(
        f"exit code {process.returncode}, {seconds:.0f} s; allocated at most "
        f"{peaks['RssAnon'] / 1e6:.2f} GB, mapped at most {peaks['RssFile'] / 1e6:.2f} GB"
    )


if __name__ == "__main__":
    main()
