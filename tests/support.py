"""Functions that many tests share: a small data set, configs, what a command printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import optuna
import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
STANDIN = Path(__file__).parent / "standin_worker.py"
# In a folder of their own: beside tests/trainer, Python would find that for our package.
SLOW = Path(__file__).parent / "workers/slow.py"
HASTY = Path(__file__).parent / "workers/hasty.py"
BIN = Path(sys.executable).parent
# The real images, which are in no repository.
REAL = Path(os.environ.get("RML_DATA", Path(__file__).parents[2] / "shared/data"))


def require(component: str, reason: str) -> None:
    """Skip for want of a component, or fail where RML_REQUIRE names it."""
    if component in os.environ.get("RML_REQUIRE", "").split(","):
        pytest.fail(f"{component} is required here: {reason}")
    pytest.skip(f"{component}: {reason}")


def write_disc(folder: Path, name: str, rng: np.random.Generator, size: int) -> None:
    """Write an image with a dark disc on noise, and its mask of {0, 255}."""
    for part in ("inputs", "targets"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:size, :size]
    centre, radius = rng.uniform(0.3, 0.7, 2) * size, rng.uniform(0.12, 0.3) * size
    disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    image = np.clip(rng.normal(np.where(disc, 70, 150), 25), 0, 255).astype(np.uint8)
    cv2.imwrite(str(folder / "inputs" / name), image)
    cv2.imwrite(str(folder / "targets" / name), disc.astype(np.uint8) * 255)


def write_discs(root: Path, *, num_train: int = 12, num_test: int = 5, size: int = 32) -> Path:
    """Write a data set of the tutorial's layout and return its folder."""
    rng = np.random.default_rng(0)
    for part, number in (("train", num_train), ("test", num_test)):
        for index in range(number):
            write_disc(root / part, f"img {index:02d}.png", rng, size)
    return root


def clean_environment() -> dict[str, str]:
    """Our environment with one thread, so that tests don't fight for cores."""
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def write_config(path: Path, data: Path, **changes: object) -> Path:
    """Write a config that trains on `data` for one epoch; `changes` replace whole sections."""
    config: dict[str, object] = {
        "outfile": "out.txt",
        "num_epochs": 1,
        "layers": "unet:width=4,depth=2",
        "data": data_section(data),
        "optimizer": {"type": "adam", "learning_rate": 0.01},
        "loss": {"function": "Dice", "source": "sigmoid"},
        **changes,
    }
    config = {key: value for key, value in config.items() if value is not None}
    path.write_text(json.dumps({"neural_network": config}))
    return path


def data_section(data: Path, **changes: object) -> dict[str, object]:
    """Return the data section of a config on `data`."""
    return {
        "type": "images",
        "input_path": str(data / "train/inputs"),
        "target_path": str(data / "train/targets"),
        "test_input_path": str(data / "test/inputs"),
        "test_target_path": str(data / "test/targets"),
        "batch_size": 4,
        "target_is_mask": True,
        "grayscale": True,
        "transforms": [{"resize": [32, 32]}],
        **changes,
    }


def one_error(result: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """Check that a command ended with one clear error, and return it with its details."""
    output = result.stdout + result.stderr
    assert result.returncode == code, output
    assert "Traceback" not in output
    lines = [
        line
        for line in result.stderr.splitlines()
        if "error:" in line or line.startswith("    | ")
    ]
    assert any("error:" in line for line in lines), output
    return "\n".join(lines)


def standin_settings(folder: Path, settings: dict[str, object]) -> str:
    """Return the stand-in's command with a file of settings."""
    path = folder / "standin.json"
    path.write_text(json.dumps(settings))
    return f"{sys.executable} {STANDIN} {path}"


def list_acc(folder: Path) -> list[dict[str, object]]:
    """Read `list_acc.json`."""
    entries: list[dict[str, object]] = json.loads((folder / "list_acc.json").read_text())
    return entries


def names(paths: Sequence[Path]) -> list[str]:
    """Return sorted file names."""
    return sorted(path.name for path in paths)


SMALL = ("--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu", "--num-epochs", "3")


def optimize(discs: Path, *extra: object) -> list[str]:
    return [*SMALL, "--data", str(discs), *map(str, extra)]


def states(folder: Path) -> dict[int, str]:
    """Return number -> state, from the database."""
    storage = f"sqlite:///{folder / 'rml_optimize.db'}"
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    return {trial.number: trial.state.name for trial in study.trials}


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / "rml-optimize"), *arguments], cwd=folder, env=clean_environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for(condition: object, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def workers_of(folder: Path) -> list[int]:
    """Return the workers whose current folder is below `folder/runs`, not what watches them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                is_below = str((entry / "cwd").readlink()).startswith(str(folder / "runs"))
                if is_below and b"reaper.py" not in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
