"""Says on what a figure was measured: card or processor, versions, date.

Run it with `python benchmarks/machine.py [cpu|cuda]`.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from trainer.compute.device import choose_device


def describe(device: torch.device) -> str:
    """Return one line on the machine."""
    parts = [
        _name(device),
        f"{num_cores()} cores",
        f"{torch.get_num_threads()} threads",
    ]
    if device.type == "cuda":
        parts += [f"driver {_driver()}", f"CUDA {torch.version.cuda}"]
    parts += [f"torch {torch.__version__}", f"Python {platform.python_version()}"]
    return ", ".join([*parts, datetime.date.today().isoformat()])


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def wait_for(device: torch.device) -> None:
    """Return when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.machine()


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.split("\n")[0].strip()


if __name__ == "__main__":
    print(describe(choose_device(sys.argv[1] if sys.argv[1:] else "auto")))
