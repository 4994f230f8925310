"""What a container looks like from inside, whatever runs it."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

from hpo.launchers.base import Mount, Slot, worker_environment

WORK_DIR = "/home/ubuntu"  # the tutorial's: images may have it built in
MOUNT_ROOT = PurePosixPath("/rml")
CACHE_DIR = str(MOUNT_ROOT / "cache")
RUNS_DIR = str(MOUNT_ROOT / "runs")  # of a container that carries out several
WORKER = ("rmldnn",)

_ENVIRONMENT = {
    # a uid without a passwd entry has neither home nor name, and torch asks for both
    "HOME": "/tmp",
    "USER": "rml",
    "LOGNAME": "rml",
    "XDG_CACHE_HOME": "/tmp/cache",
    "MPLCONFIGDIR": "/tmp/cache/matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "/tmp/cache/torchinductor",
    "TRITON_CACHE_DIR": "/tmp/cache/triton",
}


def mounted_path(mount: Mount, relative: PurePosixPath | str = "") -> str:
    """Return a path below a mount as the worker sees it."""
    return str(MOUNT_ROOT / mount.name / relative)


def container_environment(slot: Slot, num_procs: int, *, has_cache: bool) -> dict[str, str]:
    """Return the variables that a worker gets; nothing of the host's comes besides."""
    environment = worker_environment(slot, num_procs) | _ENVIRONMENT
    # without a folder the worker's default would be the tmpfs, which is memory
    environment["RML_CACHE_DIR"] = CACHE_DIR if has_cache else "off"
    for name in ("RML_CACHE_GB", "RML_MAX_PIXELS"):
        if name in os.environ:
            environment[name] = os.environ[name]
    if not slot.gpu_uuids:
        # where the NVIDIA runtime is the default, CUDA images would see every GPU
        environment["NVIDIA_VISIBLE_DEVICES"] = "void"
    return environment
