"""What tests of arrays share: networks on volumes, and data that a network can learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

Layer = tuple[str, dict[str, Any]]


def keras_file(path: Path, *layers: Layer, shape: tuple[int | None, ...]) -> Path:
    """Write a sequential Keras network on inputs of `shape` (*spatial, C)."""
    first: Layer = ("InputLayer", {"batch_input_shape": [None, *shape]})
    described = [
        {"class_name": kind, "config": {"name": f"{kind.lower()}_{index}", **config}}
        for index, (kind, config) in enumerate((first, *layers))
    ]
    network = {"class_name": "Sequential", "config": {"name": "net", "layers": described}}
    path.write_text(json.dumps(network))
    return path


def conv(rank: int, filters: int, activation: str = "relu", **more: Any) -> Layer:
    """Describe a convolution of width 3."""
    config = {"filters": filters, "kernel_size": [3] * rank, "padding": "same"}
    return (f"Conv{rank}D", config | {"activation": activation} | more)


def balls(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return noise with a darker ball, float32, and where the ball is, uint8."""
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    centre = rng.uniform(0.35, 0.65, len(shape)) * shape
    ball = np.linalg.norm(places - centre, axis=-1) < 0.3 * min(shape)
    values = rng.normal(np.where(ball, -1.0, 1.0), 0.3).astype(np.float32)
    return values, ball.astype(np.uint8)


def section(root: Path, kind: str, suffix: str = "", **changes: object) -> dict[str, object]:
    """Return the data section for ROOT/{train,test}_{inputs,targets}SUFFIX."""
    return {
        "type": kind,
        "input_path": str(root / f"train_inputs{suffix}"),
        "target_path": str(root / f"train_targets{suffix}"),
        "test_input_path": str(root / f"test_inputs{suffix}"),
        "test_target_path": str(root / f"test_targets{suffix}"),
        "batch_size": 2,
        **changes,
    }


def write_npy_folders(root: Path, shape: tuple[int, ...], *, num: int = 4) -> Path:
    """Write balls, one file a sample."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for kind in ("inputs", "targets"):
            (root / f"{part}_{kind}").mkdir(parents=True)
        for index in range(num):
            values, ball = balls(rng, shape)
            np.save(root / f"{part}_inputs" / f"{index}.npy", values)
            np.save(root / f"{part}_targets" / f"{index}.npy", ball)
    return root
