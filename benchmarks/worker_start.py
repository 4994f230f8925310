"""Measures a trial that trains next to nothing, in a process of its own and in a kept one.

The training is the same (16 images of 32x32, one epoch), so the difference is what a start
costs: the interpreter, the imports, on a GPU the CUDA context. Run it with

    python benchmarks/worker_start.py [--num-trials 10]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from hpo.launchers import Slot, WorkerJob, choose_launcher


def write_data(root: Path) -> Path:
    """Write 16 noisy images with a square each."""
    rng = np.random.default_rng(0)
    for kind in ("inputs", "targets"):
        (root / kind).mkdir(parents=True)
    for index in range(16):
        mask = np.zeros((32, 32), np.uint8)
        mask[8:24, 8:24] = 255
        image = np.clip(rng.normal(100 + mask / 4, 20), 0, 255).astype(np.uint8)
        cv2.imwrite(str(root / "inputs" / f"{index}.png"), image)
        cv2.imwrite(str(root / "targets" / f"{index}.png"), mask)
    return root


def write_run(folder: Path, data: Path) -> Path:
    """Write the config of one epoch on the data."""
    folder.mkdir()
    paths = {"input_path": str(data / "inputs"), "target_path": str(data / "targets")}
    config = {
        "outfile": "out.txt",
        "layers": "unet:width=4,depth=2",
        "data": {
            "type": "images",
            **paths,
            **{f"test_{key}": path for key, path in paths.items()},
            "batch_size": 4,
            "grayscale": True,
            "target_is_mask": True,
        },
        "optimizer": {"type": "adam"},
        "loss": {"function": "Dice"},
    }
    (folder / "config.json").write_text(json.dumps({"neural_network": config}))
    return folder


def seconds_per_trial(root: Path, data: Path, *, warm: bool, num_trials: int) -> list[float]:
    """Return the wall-clock seconds of each trial of one slot, one after the other."""
    launcher, _ = choose_launcher("local", worker=None, image="", mounts=(), warm=warm)
    slot = Slot(index=0, num_threads=1)
    launcher.capabilities()  # asked once per search, before the first trial
    times = []
    try:
        for number in range(num_trials):
            folder = write_run(root / f"{'warm' if warm else 'cold'}_{number}", data)
            started = time.perf_counter()
            handle = launcher.start(WorkerJob(run_dir=folder, slot=slot))
            while (code := handle.poll()) is None:
                time.sleep(0.005)
            times.append(time.perf_counter() - started)
            assert code == 0, handle.log_tail()
    finally:
        launcher.close()
    return times


def main() -> None:
    """Print seconds per trial, cold and warm."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-trials", type=int, default=10)
    num_trials = parser.parse_args().num_trials
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["RML_CACHE_DIR"] = str(root / "cache")
        data = write_data(root / "data")
        cold = seconds_per_trial(root, data, warm=False, num_trials=num_trials)
        warm = seconds_per_trial(root, data, warm=True, num_trials=num_trials)
    print(f"{platform.machine()}, {os.cpu_count()} cores, local processes, {num_trials} trials")
    print(f"a process for each trial: {statistics.median(cold):6.3f} s per trial (median)")
    print(f"one process kept:         {statistics.median(warm[1:]):6.3f} s per trial (median)")
    print(f"  its first trial:        {warm[0]:6.3f} s")
    print(f"ratio: {statistics.median(cold) / statistics.median(warm[1:]):.1f}")


if __name__ == "__main__":
    main()
