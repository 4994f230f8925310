"""Runs of the worker that the tests of a GPU compare with those on the CPU."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import torch
from support import data_section

from trainer.cli import main

RESIZE = [{"resize": [32, 32]}]


def conv(name: str, filters: int, rank: int, activation: str, **more: Any) -> dict[str, Any]:
    kernel = {"kernel_size": [3] * rank, "padding": "same", "activation": activation}
    config = {"name": name, "filters": filters, **kernel, **more}
    return {"class_name": f"Conv{rank}D", "config": config}


def sequential(shape: tuple[int, ...], *layers: dict[str, Any]) -> dict[str, Any]:
    first = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, *shape]}}
    return {"class_name": "Sequential", "config": {"name": "net", "layers": [first, *layers]}}


def volume_network(shape: tuple[int, ...]) -> dict[str, Any]:
    norm = {"class_name": "BatchNormalization", "config": {"name": "norm", "scale": False}}
    return sequential(
        shape, conv("first", 4, len(shape) - 1, "relu"), norm,
        conv("last", 1, len(shape) - 1, "sigmoid"),
    )  # fmt: skip


def classifier(shape: tuple[int, ...]) -> dict[str, Any]:
    pool = {"class_name": "GlobalAveragePooling2D", "config": {"name": "pool"}}
    dense = {"class_name": "Dense", "config": {"name": "classes", "units": 2}}
    dense["config"] |= {"activation": "softmax"}
    return sequential(shape, conv("first", 8, 2, "relu"), pool, dense)


def config_of(data: dict[str, object], **changes: object) -> dict[str, Any]:
    """Return a config; None takes a key out."""
    config: dict[str, object] = {
        "outfile": "out.txt",
        "num_epochs": 2,
        "layers": "unet:width=4,depth=2",
        "data": data,
        "optimizer": {"type": "adam", "learning_rate": 0.01},
        "loss": {"function": "BCE"},
        "precision": "fp32",
        **changes,
    }
    return {key: value for key, value in config.items() if value is not None}


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run(
    folder: Path, device: torch.device | str, data: dict[str, object], **changes: object
) -> list[dict[str, Any]]:
    """Carry a config out in the folder, in this process; return its evaluations' metrics."""
    kind = device if isinstance(device, str) else device.type
    code = attempt(folder, config_of(data, device=kind, **changes))
    assert code == 0
    return metrics(folder)


def attempt(folder: Path, config: dict[str, Any]) -> int:
    with _inside(folder):
        Path("config.json").write_text(json.dumps({"neural_network": config}))
        return main(["--config=config.json"])


def metrics(folder: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{**entry, "used": None} for entry in entries]


def score_lines(folder: Path) -> np.ndarray:
    """Return loss and accuracy of each epoch."""
    lines = (folder / "out_test.txt").read_text().splitlines()
    return np.array([[float(word) for word in line.split()[2:]] for line in lines])


def train_losses(folder: Path) -> np.ndarray:
    """Return the loss of each step."""
    lines = (folder / "out_train.txt").read_text().splitlines()
    return np.array([float(line.split()[3]) for line in lines])


def checkpoint(folder: Path, epoch: int) -> dict[str, torch.Tensor]:
    path = folder / f"ck/model_checkpoint_{epoch}.pt"
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def balls(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noise with a darker ball, float32, and where the ball is, uint8."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    centre = rng.uniform(0.35, 0.65, len(shape)) * shape
    ball = np.linalg.norm(places - centre, axis=-1) < 0.3 * min(shape)
    return rng.normal(np.where(ball, -1.0, 1.0), 0.3).astype(np.float32), ball.astype(np.uint8)


def kinds_of_data(root: Path, discs: Path) -> dict[str, tuple[dict[str, object], object]]:
    """Write data of every kind; return its section and network."""
    unet = "unet:width=4,depth=2"
    tiles = {"size": [16, 16], "overlap": 0.25, "per_image": 2}
    augmented: list[dict[str, object]] = [
        *RESIZE, {"random_horizontal_flip": 0.5}, {"normalize": {"mean": 0.5, "std": 0.25}},
        {"intensity_jitter": {"brightness": 0.1, "contrast": 0.1}},
    ]  # fmt: skip
    colour = {"grayscale": False, "input_grayscale": False, "target_grayscale": True}
    return {
        "images": (data_section(discs, transforms=augmented), unet),
        "colour": (data_section(discs, **colour), unet),
        "tiles": (data_section(discs, transforms=[], tiles=tiles), unet),
        "16 bits": (_images16(root / "16", discs), unet),
        "numpy": (_arrays(root / "npy", (8, 8, 8), "numpy"), volume_network((8, 8, 8, 1))),
        "HDF5": (_hdf5(root / "h5", (16, 16)), volume_network((16, 16, 1))),
        "slices": (_slices(root / "slices"), volume_network((8, 8, 8, 1))),
        "labels": (_labels(root / "labels"), classifier((32, 32, 1))),
    }


def _section(root: Path, kind: str, suffix: str = "", **more: object) -> dict[str, object]:
    parts = {"input_path": "train_inputs", "target_path": "train_targets"}
    parts |= {"test_input_path": "test_inputs", "test_target_path": "test_targets"}
    paths = {key: str(root / f"{part}{suffix}") for key, part in parts.items()}
    return {"type": kind, "batch_size": 2, **paths, **more}


def _images16(root: Path, discs: Path) -> dict[str, object]:
    for path in discs.rglob("*.png"):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert image is not None
        if path.parent.name == "inputs":
            image = image.astype(np.uint16) * 200 + 300
        place = root / path.relative_to(discs)
        place.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(place), image)
    return data_section(root)


def _arrays(root: Path, shape: tuple[int, ...], kind: str) -> dict[str, object]:
    for part in ("train", "test"):
        for index in range(4):
            for name, values in zip(("inputs", "targets"), balls(shape, index), strict=True):
                (root / f"{part}_{name}").mkdir(parents=True, exist_ok=True)
                np.save(root / f"{part}_{name}" / f"{index}.npy", values)
    return _section(root, kind)


def _hdf5(root: Path, shape: tuple[int, ...]) -> dict[str, object]:
    root.mkdir(parents=True)
    for part in ("train", "test"):
        with (
            h5py.File(root / f"{part}_inputs.h5", "w") as inputs,
            h5py.File(root / f"{part}_targets.h5", "w") as targets,
        ):
            for index in range(4):
                values, ball = balls(shape, index)
                inputs[f"{index}"], targets[f"{index}"] = values, ball
    return _section(root, "hdf5", ".h5")


def _slices(root: Path) -> dict[str, object]:
    section = _arrays(root, (16, 16, 16), "numpy")
    return section | {"slicers": [{"sizes": [8, 8, 8], "strides": [8, 8, 8]}]}


def _labels(root: Path) -> dict[str, object]:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for label, mean in (("dark", 60), ("light", 180)):
            (root / part / label).mkdir(parents=True)
            for index in range(4):
                image = np.clip(rng.normal(mean, 20, (32, 32)), 0, 255).astype(np.uint8)
                assert cv2.imwrite(str(root / part / label / f"{index}.png"), image)
    return {
        "type": "images",
        "input_path": str(root / "train"),
        "test_input_path": str(root / "test"),
        "target_type": "labels",
        "batch_size": 2,
        "grayscale": True,
        "transforms": RESIZE,
    }
