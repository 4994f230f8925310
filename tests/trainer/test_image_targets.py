"""Targets that are images: inpainting, colours, other sizes than the inputs', and their scores.

What is expected is computed here by OpenCV and NumPy from the files.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
from arrays import conv, keras_file
from worker import Worker, write_png

from trainer.config import parse_config
from trainer.data.augmentation import draw_patches
from trainer.data.dataset import Resolve, load_data
from trainer.loading.batches import Batches

CPU = torch.device("cpu")


def _photos(folder: Path, count: int, size: tuple[int, int] = (24, 20), seed: int = 0) -> Path:
    """Write coloured images in folders of classes, as the inpainting tutorial has them."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        path = folder / ("cat", "dog")[index % 2] / f"{index}.png"
        write_png(path, rng.integers(1, 256, (*size, 3)))
    return folder


def _data(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    photos = str(tmp_path / "natural_images" / "training")
    return {"type": "images", "input_path": photos, "target_path": photos, **changes}


def _batches(data: dict[str, Any], *, batch_size: int = 3, part: str = "train") -> Batches:
    config = {"layers": "unet", "loss": {"function": "BCE"}, "data": {**data, "cache": "off"}}
    loaded = load_data(parse_config({"neural_network": config}).data, Resolve(Path()))
    assert loaded.coding is not None
    images = getattr(loaded, part)
    is_continuous = loaded.coding.kind == "continuous"
    return Batches(images, batch_size=batch_size, device=CPU, continuous=is_continuous)


def test_patches_are_cut_out_of_the_input_and_the_target_is_the_image(tmp_path: Path) -> None:
    folder = _photos(tmp_path / "natural_images" / "training", 5)
    patches = {"number": 3, "size": 6}
    transforms = [{"resize": [16, 18]}, {"random_patches": patches}]
    seen = []
    for epoch in (1, 2):
        batches = _batches(_data(tmp_path, transforms=transforms))
        corners = draw_patches(
            batches.images.steps, num_samples=5, size_HW=(16, 18), seed=7, epoch=epoch
        )
        assert corners is not None
        for picked in batches.epoch(seed=7, epoch=epoch):
            batch = batches.make(picked)
            assert batch.targets is not None
            for index, given, target in zip(
                picked.indices, batch.inputs_NCHW, batch.targets, strict=True
            ):
                name = batches.images.names[index]
                image = cv2.resize(cv2.imread(str(folder / name)), (18, 16))  # linear, BGR
                np.testing.assert_allclose(target.numpy(), image.transpose(2, 0, 1) / 255)
                for top, left in corners[index]:
                    image[top : top + 6, left : left + 6] = 0
                np.testing.assert_allclose(given.numpy(), image.transpose(2, 0, 1) / 255)
                seen.append((epoch, int((image == 0).all(-1).sum())))
    assert all(36 <= blank <= 108 for _, blank in seen)  # they may overlap
    assert [blank for epoch, blank in seen if epoch == 1] != [b for e, b in seen if e == 2]


def test_inpainting_tutorial_trains_at_the_image_s_own_size(
    worker: Worker, tmp_path: Path
) -> None:
    _photos(tmp_path / "natural_images" / "training", 6)
    _photos(tmp_path / "natural_images" / "testing", 4, seed=1)
    layers = keras_file(
        tmp_path / "network.json", conv(2, 4), conv(2, 3, "sigmoid"), shape=(16, 16, 3)
    )
    testing = str(tmp_path / "natural_images" / "testing")
    transforms = [{"resize": [16, 16]}, {"random_patches": {"number": 4, "size": 4}}]
    result = worker(
        layers=str(layers),
        num_epochs=3,
        loss={"function": "BCE"},
        data=_data(
            tmp_path,
            test_input_path=testing,
            test_target_path=testing,
            test_output_path="out",
            batch_size=3,
            preload=True,
            transforms=transforms,
        ),
    ).succeeded()
    assert "dice" not in result.out.lower()
    assert "Dice" not in "".join(result.metrics[-1])
    # Scores once more, from the predictions and the files.
    targets, outputs = [], []
    with h5py.File(tmp_path / "out/output_1.h5") as file:
        for path in sorted(Path(testing).rglob("*.png")):
            image = cv2.resize(cv2.imread(str(path)), (16, 16))
            targets.append(image.transpose(2, 0, 1) / 255)
            outputs.append(file[path.relative_to(testing).as_posix()][()])
            assert outputs[-1].shape == (3, 16, 16)
    target, output = np.array(targets), np.array(outputs)
    squared = (output - target) ** 2
    r2 = 1 - squared.sum() / ((target - target.mean()) ** 2).sum()
    assert result.accuracies[-1] == pytest.approx(r2, abs=1e-6)
    assert result.metrics[-1]["r2"] == pytest.approx(r2, abs=1e-6)
    assert result.metrics[-1]["mse"] == pytest.approx(squared.mean(), rel=1e-5)
    assert result.metrics[-1]["mae"] == pytest.approx(np.abs(output - target).mean(), rel=1e-5)
    rows = list(csv.DictReader((tmp_path / "per_image.csv").read_text().splitlines()))
    np.testing.assert_allclose([float(row["mse"]) for row in rows], squared.mean((1, 2, 3)), 1e-5)
    assert "Targets: images of 3 channels, divided by their full scale" in result.out
    # What is cut out of test images is the same each time, so the same weights score the same.
    assert "R2 = " in result.out


@pytest.mark.parametrize("gray", [False, True])
def test_target_grayscale_converts_coloured_targets(tmp_path: Path, gray: bool) -> None:
    folder = _photos(tmp_path / "natural_images" / "training", 4, size=(8, 9))
    data = _data(tmp_path, input_grayscale=False, target_grayscale=gray)
    batches = _batches(data, batch_size=4)
    (batch,) = [batches.make(picked) for picked in batches.epoch(seed=0, epoch=1)]
    assert batch.targets is not None
    for index, target in zip(batch.indices, batch.targets, strict=True):
        path = str(folder / batches.images.names[index])
        image = cv2.imread(path, cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR)
        expected = image[np.newaxis] if gray else image.transpose(2, 0, 1)
        np.testing.assert_allclose(target.numpy(), expected / 255)


def test_coloured_targets_want_a_network_of_their_channels(worker: Worker, tmp_path: Path) -> None:
    _photos(tmp_path / "natural_images" / "training", 3, size=(16, 16))
    message = worker(loss={"function": "BCE"}, data=_data(tmp_path)).error()
    assert "has 1 output channel(s), the targets 3" in message
    assert "data.target_grayscale" in message
    assert "rml-data prepare folder" in message


def test_coloured_masks_are_refused_as_ever_where_they_are_said_to_be_masks(
    worker: Worker, tmp_path: Path
) -> None:
    _photos(tmp_path / "natural_images" / "training", 3, size=(16, 16))
    masks = str(_photos(tmp_path / "masks", 3, size=(16, 16), seed=1))
    data = _data(tmp_path, target_is_mask=True, target_path=masks)
    message = worker(data=data).error()
    assert "the mask is coloured" in message


def test_inputs_of_128_and_targets_of_16(worker: Worker, tmp_path: Path) -> None:
    """The documentation's example: input_transforms and target_transforms of different sizes."""
    rng = np.random.default_rng(0)
    for index in range(4):
        image = cv2.resize(rng.integers(0, 256, (4, 4), dtype=np.uint8), (150, 150))
        write_png(tmp_path / "x" / f"{index}.png", image)
        write_png(tmp_path / "y" / f"{index}.png", (image > 128) * 255)
    pool = ("AveragePooling2D", {"pool_size": [8, 8]})
    layers = keras_file(tmp_path / "net.json", pool, conv(2, 1, "sigmoid"), shape=(128, 128, 1))
    sizes = {
        "input_transforms": [{"resize": [128, 128]}],
        "target_transforms": [{"resize": [16, 16]}],
    }
    paths = {
        "input_path": "x",
        "target_path": "y",
        "test_input_path": "x",
        "test_target_path": "y",
    }
    result = worker(
        layers=str(layers),
        data={"type": "images", "grayscale": True, **paths, **sizes, "test_output_path": "out"},
    ).succeeded()
    both = predicted = masks = 0
    with h5py.File(tmp_path / "out/output_1.h5") as file:
        for name in file:
            assert file[name].shape == (1, 16, 16)
            mask = cv2.imread(str(tmp_path / "y" / name), cv2.IMREAD_GRAYSCALE)
            mask = cv2.resize(mask, (16, 16), interpolation=cv2.INTER_NEAREST_EXACT) > 0
            found = file[name][0] > 0.5
            both, predicted = both + (mask & found).sum(), predicted + found.sum()
            masks += mask.sum()
    assert result.accuracies == [pytest.approx(2 * both / (predicted + masks), abs=1e-8)]
    del sizes["target_transforms"]
    message = worker(
        layers=str(layers), data={"type": "images", "grayscale": True, **paths, **sizes}
    )
    assert "makes 16x16 of 128x128, and the targets are 150x150" in message.error()


def test_super_resolution_from_16_to_32(worker: Worker, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(4):
        image = cv2.resize(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), (32, 32))
        write_png(tmp_path / "high" / f"{index}.png", image)
        write_png(tmp_path / "low" / f"{index}.png", cv2.resize(image, (16, 16)))
    layers = keras_file(
        tmp_path / "net.json",
        ("UpSampling2D", {"size": [2, 2]}),
        conv(2, 3, "linear"),
        shape=(16, 16, 3),
    )
    data = {
        "type": "images",
        "input_path": "low",
        "target_path": "high",
        "test_input_path": "low",
        "test_target_path": "high",
    }
    result = worker(layers=str(layers), loss={"function": "MSE"}, data=data).succeeded()
    assert "R2 = " in result.out
    predict = {"type": "images", "test_input_path": "low", "test_output_path": "out"}
    worker(layers=str(layers), loss=None, optimizer=None, data=predict).succeeded()
    with h5py.File(tmp_path / "out/output_1.h5") as file:
        assert {file[name].shape for name in file} == {(3, 32, 32)}


@pytest.mark.parametrize("first", [True, False], ids=["channels first", "channels last"])
def test_numpy_targets_of_several_channels(worker: Worker, tmp_path: Path, first: bool) -> None:
    rng = np.random.default_rng(0)
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    truths = []
    for index in range(4):
        values = rng.normal(size=(10, 12)).astype(np.float32)
        truth = np.stack([values, -2 * values])
        truths.append(truth)
        np.save(tmp_path / "x" / f"{index}.npy", values)
        np.save(tmp_path / "y" / f"{index}.npy", truth if first else np.moveaxis(truth, 0, -1))
    layers = keras_file(tmp_path / "net.json", conv(2, 2, "linear"), shape=(None, None, 1))
    paths = {
        "input_path": "x",
        "target_path": "y",
        "test_input_path": "x",
        "test_target_path": "y",
    }
    result = worker(
        layers=str(layers),
        loss={"function": "MSE"},
        num_epochs=2,
        data={"type": "numpy", **paths, "batch_size": 2, "test_output_path": "out"},
    ).succeeded()
    with h5py.File(tmp_path / "out/output_1.h5") as file:
        output = np.array([file[f"{index}.npy"][()] for index in range(4)])
    target = np.array(truths)
    squared = (output - target) ** 2
    r2 = 1 - squared.sum() / ((target - target.mean()) ** 2).sum()
    assert result.accuracies[-1] == pytest.approx(r2, abs=1e-6)
    assert result.scores[-1][2] == pytest.approx(squared.mean(), rel=1e-4)


def test_warped_images_are_interpolated_and_masks_are_not(tmp_path: Path) -> None:
    _photos(tmp_path / "natural_images" / "training", 3, size=(16, 16))
    batches = _batches(_data(tmp_path, transforms=[{"random_rotate": 20}]), batch_size=3)
    (batch,) = [batches.make(picked) for picked in batches.epoch(seed=0, epoch=1)]
    assert batch.targets is not None
    # Inputs and targets are the same files, so they stay the same.
    torch.testing.assert_close(batch.inputs_NCHW, batch.targets)


@pytest.mark.parametrize("metrics", [{"hd95": True}, {"plugins": ["own"]}], ids=str)
def test_metrics_of_classes_are_refused_where_values_are_compared(
    worker: Worker, tmp_path: Path, metrics: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.config.network.plugin_names", lambda group: ("own",))
    result = worker(
        loss={"function": "MSE"}, metrics=metrics, data__target_is_mask=None,
        data__target_grayscale=True,
        data__transforms=[{"resize": [32, 32]}, {"random_patches": {"number": 2, "size": 5}}],
    )  # fmt: skip
    (key,) = metrics
    assert result.code == 2
    assert f"metrics.{key}: compares masks of classes, and these targets are values" in result.err


def test_inpainting_network_predicts_where_there_are_no_targets(
    worker: Worker, tmp_path: Path
) -> None:
    photos = _photos(tmp_path / "photos", 3)
    layers = keras_file(tmp_path / "net.json", conv(2, 3, "linear"), shape=(24, 20, 3))
    worker(
        layers=str(layers),
        data={
            "test_input_path": str(photos),
            "test_output_path": "predicted",
            "transforms": [{"random_patches": {"number": 2, "size": 5}}],
        },
    ).succeeded()
    with h5py.File(tmp_path / "predicted" / "output_1.h5") as file:
        assert {values.shape for values in _datasets(file)} == {(3, 24, 20)}


def _datasets(group: h5py.Group) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []
    group.visititems(lambda _, item: found.append(item) if hasattr(item, "shape") else None)
    return found
