"""Data of type mnist: the four idx files, read with no more trust than their sizes bear out."""

from __future__ import annotations

import gzip
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support import Run

from trainer.config import Data, parse_config
from trainer.data.dataset import load_data
from trainer.data.digits import read_idx
from trainer.errors import ConfigError, DataError

LAYERS = [
    {"class_name": "Conv2D", "config": {"name": "conv", "filters": 4, "kernel_size": [3, 3],
     "activation": "relu", "batch_input_shape": [None, 28, 28, 1]}},
    {"class_name": "MaxPooling2D", "config": {"name": "pool", "pool_size": [4, 4]}},
    {"class_name": "Flatten", "config": {"name": "flatten"}},
    {"class_name": "Dense", "config": {"name": "dense", "units": 10,
     "activation": "log_softmax"}},
]  # fmt: skip


def idx(values: np.ndarray, *, shape: tuple[int, ...] | None = None, kind: int = 8) -> bytes:
    shape = values.shape if shape is None else shape
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape) + values.tobytes()


def digits(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw a bar for each digit, at its own column, on noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num, dtype=np.uint8) % 10
    images = rng.integers(0, 60, (num, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4:24, 2 * int(label) + 3 : 2 * int(label) + 6] = 250
    return images, labels


def write_mnist(folder: Path, *, num_train: int = 40, num_test: int = 20) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, num, seed in (("train", num_train, 0), ("t10k", num_test, 1)):
        images, labels = digits(num, seed)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def section(folder: str = "mnist", **changes: Any) -> dict[str, Any]:
    return {"type": "mnist", "input_path": folder, "test_input_path": folder} | changes


def load(**data: Any):
    return load_data(Data(**data), Path)


@pytest.mark.parametrize("spelling", ["plain", "gz", "dots"])
def test_the_four_files_are_read_to_the_pixel(tmp_path: Path, spelling: str) -> None:
    folder = write_mnist(tmp_path / "mnist")
    for path in list(folder.iterdir()):
        if spelling == "gz":
            with gzip.open(f"{path}.gz", "wb") as file:
                file.write(path.read_bytes())
            path.unlink()
        elif spelling == "dots":
            path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    loaded = load(**section(str(folder)))
    assert loaded.train is not None and loaded.test is not None and loaded.coding is not None
    for part, (images, labels) in ((loaded.train, digits(40)), (loaded.test, digits(20, 1))):
        np.testing.assert_array_equal(np.asarray(part.inputs_NHWC)[..., 0], images)
        np.testing.assert_array_equal(part.targets_NHW, labels)
    assert loaded.is_classification
    assert loaded.coding.num_classes == 10
    assert loaded.train.names[7] == "00007"


def test_reading_equals_that_of_another_reader(tmp_path: Path) -> None:
    images, _ = digits(30)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx(images))
    raw = np.fromfile(path, np.uint8)  # as everybody reads it
    np.testing.assert_array_equal(read_idx(path, "images"), raw[16:].reshape(-1, 28, 28))


def test_a_network_is_trained_and_its_predictions_read(run: Run, tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist", num_train=200)
    config = {
        "outfile": "out_mnist.txt",
        "num_epochs": 4,
        "layers": LAYERS,
        "data": section("./mnist", batch_size=20, test_output_path="./predictions/"),
        "optimizer": {"type": "Adam", "learning_rate": 0.01},
        "loss": {"function": "NLL"},
    }
    (tmp_path / "config.json").write_text(json.dumps({"neural_network": config}))
    result = run("rmldnn", "--config=", "./config.json")
    assert result.returncode == 0, result.stderr
    assert "Labels of 10 classes, as labelled: 0 0, 1 1" in result.stdout
    assert "Num images  (total)      : 200" in result.stdout
    accuracy = float((tmp_path / "out_mnist_test.txt").read_text().split()[-1])
    with h5py.File(tmp_path / "predictions/output_1.h5") as file:
        found = [int(np.argmax(file[name][()])) for name in file]
    assert np.mean(np.array(found) == digits(20, 1)[1]) == pytest.approx(accuracy)
    assert accuracy > 0.9


def test_transforms_that_resize_images_resize_digits(tmp_path: Path) -> None:
    folder = str(write_mnist(tmp_path))
    loaded = load(**section(folder, transforms=[{"resize": (32, 32)}]))
    assert loaded.train is not None
    assert loaded.train.inputs_NHWC.shape == (40, 32, 32, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", None, "no train-images-idx3-ubyte in"),
        ("t10k-labels-idx1-ubyte", None, "data.test_input_path: no t10k-labels-idx1-ubyte in"),
        ("train-images-idx3-ubyte", b"", "no idx file of images: it begins with nothing"),
        ("train-images-idx3-ubyte", b"\x89PNG\r\n", "begins with 89 50 4e 47, not with 00 00 08"),
        ("train-images-idx3-ubyte", idx(np.zeros(9, np.uint8)), "no idx file of images"),
        ("train-labels-idx1-ubyte", idx(np.zeros(40, np.float32), kind=13), "no idx file of lab"),
        (
            "train-images-idx3-ubyte",
            idx(np.zeros(784, np.uint8), shape=(2**32 - 1, 28, 28)),
            "4294967295x28x28 images, and a file of 800 bytes cannot hold them",
        ),
        ("train-images-idx3-ubyte", idx(digits(40)[0])[:-1], "cannot hold them"),
        ("train-images-idx3-ubyte", idx(digits(40)[0]) + b"x", "the file goes on behind them"),
        ("train-images-idx3-ubyte", idx(np.zeros((0, 28, 28), np.uint8)), "holds no images"),
        ("train-labels-idx1-ubyte", idx(digits(39)[1]), "39 labels for the 40 images of"),
    ],
)
def test_what_is_no_mnist_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = write_mnist(tmp_path) / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(**section(str(tmp_path)))
    assert message in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("fault", ["cut", "no gzip", "bomb", "longer"])
def test_broken_archives_are_refused_before_they_take_memory(tmp_path: Path, fault: str) -> None:
    content = idx(digits(40)[0])
    if fault == "bomb":
        content = idx(np.zeros(0, np.uint8), shape=(2**20, 1024, 1)) + bytes(2**26)
    if fault == "longer":
        content += bytes(2**26)
    packed = gzip.compress(content)
    packed = {"cut": packed[: len(packed) // 2], "no gzip": content}.get(fault, packed)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(packed)
    del content, packed
    tracemalloc.start()
    with pytest.raises(DataError, match=path.name):
        read_idx(path, "images")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"target_path": "b"}, "type mnist takes no target_path: its files have the classes"),
        ({"target_type": "numpy"}, "inputs are mnist and targets numpy"),
        ({"training_tag": "t"}, "training_tag is for images"),
        ({"slicers": [{"sizes": [1, 28, 28]}]}, "slicers are for"),
        ({"tiles": {"size": [8, 8]}}, "tiles are for images with masks"),
        ({"transforms": [{"random_patches": {"number": 1, "size": 4}}]}, "random_patches makes"),
    ],
)
def test_settings_without_a_meaning_here_are_refused(data: dict[str, Any], message: str) -> None:
    config = {"layers": LAYERS, "loss": {"function": "NLL"}, "data": section(**data)}
    with pytest.raises(ConfigError, match=message):
        parse_config({"neural_network": config})


@pytest.mark.parametrize("target_type", [None, "mnist", "labels"])
def test_inputs_and_targets_may_be_named_apart(tmp_path: Path, target_type: str | None) -> None:
    folder = str(write_mnist(tmp_path))
    data = {"input_type": "mnist", "input_path": folder, "target_type": target_type}
    assert load(**data).is_classification


def test_too_few_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 names, and the labels go from 0 to 9"):
        load(**section(str(write_mnist(tmp_path)), class_names=("a", "b", "c")))
