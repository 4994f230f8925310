"""Measures a trial that trains next to nothing, in a worker of its own and in a kept one.

The training is the same (16 images of 32x32, one epoch), so the difference is what a start
costs: the interpreter, the imports, on a GPU the CUDA context, the container. Run it with

    python benchmarks/worker_start.py [--num-trials 10] [--launchers local docker]

A kept container serves 16 trials; the start of the next one shows as a trial like the first.
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

from hpo.launchers import DEFAULT_IMAGE, Mount, Slot, WorkerJob, choose_launcher


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


def seconds_per_trial(kind: str, root: Path, *, warm: bool, num_trials: int) -> list[float]:
    """Return the wall-clock seconds of each trial of one slot, one after the other."""
    mount = Mount(name="data", path=write_data(root / "data"))
    launcher, _ = choose_launcher(
        kind, worker=None, image=DEFAULT_IMAGE, mounts=(mount,), warm=warm, pools=root,
        cache=root / "cache",
    )  # fmt: skip
    data = Path(launcher.worker_path(mount))
    slot = Slot(index=0, num_threads=1)
    times = []
    try:
        launcher.capabilities()  # asked once per search, before the first trial
        for number in range(num_trials):
            folder = write_run(root / f"run_{number}", data)
            started = time.perf_counter()
            handle = launcher.start(WorkerJob(run_dir=folder, slot=slot))
            while (code := handle.poll()) is None:
                time.sleep(0.005)
            times.append(time.perf_counter() - started)
            assert code == 0, handle.log_tail()
    finally:
        launcher.close()
    return times


def measure(kind: str, *, warm: bool, num_trials: int) -> list[float]:
    """Measure in a folder of its own, which a container's user can enter."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        os.environ["RML_CACHE_DIR"] = str(root / "cache")
        return seconds_per_trial(kind, root, warm=warm, num_trials=num_trials)


def main() -> None:
    """Print seconds per trial, cold and warm, side by side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-trials", type=int, default=10)
    parser.add_argument("--launchers", nargs="+", default=["local"], choices=["local", "docker"])
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, {options.num_trials} trials; medians")
    print(f"{'':8}{'cold':>9}{'warm':>9}{'ratio':>8}{'first warm':>13}{'load':>7}")
    for kind in options.launchers:
        cold = measure(kind, warm=False, num_trials=options.num_trials)
        warm = measure(kind, warm=True, num_trials=options.num_trials)
        middle, kept = statistics.median(cold), statistics.median(warm[1:])
        print(
            f"{kind:8}{middle:7.3f} s{kept:7.3f} s{middle / kept:8.1f}{warm[0]:11.3f} s"
            f"{os.getloadavg()[0]:7.1f}"
        )


if __name__ == "__main__":
    main()
