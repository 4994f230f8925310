"""The smoke run of the reference engine's repository: its config, its command, its log.

The digits are drawn here; what is expected is what that repository publishes of its own run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support import Run

from trainer.config import parse_config
from trainer.errors import ConfigError
from trainer.networks import check_network, network_json, parse_network
from trainer.networks.module import build_module

# Out of its published log, but for the number of images: 40 and 10 here.
PUBLISHED = """\
RocketML : 1 MPI process
----------------- Device(s) -----------------
   CPU
---------------------------------------------
--------------- Neural Network --------------
   Total parameters    : 21432
   Trainable parameters: 21432
   Num of operations   : 14
---------------------------------------------
----------------- Optimizer -----------------
   Type         : SGD
   Learning rate: 0.01
   Momentum     : 0.5
   Dampening    : 0
   Nesterov     : 0
-------------------- Loss -------------------
   Function    : NLL (Negative Log-Likelihood)
   Weight      : None
   Ignore index: None
---------------------------------------------
------------------ Dataset ------------------
Training dataset:
   Type                     : images
   Num images  (total)      : 40
   Num images  (per process): 40
   Batch size  (requested)  : 16
   Batch size  (per process): 16
   Num batches (per process): 3
   Transforms:
      resize                : [28, 28]
Test dataset:
   Type                     : images
   Num images  (total)      : 10
   Num images  (per process): 10
   Batch size  (requested)  : 64
   Batch size  (per process): 64
   Num batches (per process): 1
   Transforms:
      resize                : [28, 28]
---------------------------------------------
Number of class labels: 2
""".splitlines()


def _layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, **config}}


LAYERS = [
    _layer("Conv2D", "conv1", batch_input_shape=[None, 28, 28, 1], filters=10, kernel_size=[5, 5],
           activation="linear", use_bias=True),
    _layer("MaxPooling2D", "max_pool_1", pool_size=[2, 2]),
    _layer("Activation", "relu_1", trainable=True, activation="relu"),
    _layer("Conv2D", "conv2", filters=20, kernel_size=[5, 5], activation="linear"),
    _layer("SpatialDropout2D", "spat_drop", rate=0),
    _layer("MaxPooling2D", "max_pool_2", pool_size=[2, 2]),
    _layer("Activation", "relu_2", trainable=True, activation="relu"),
    _layer("Flatten", "flatten_1", trainable=True, data_format="channels_last"),
    _layer("Dense", "fc1", units=50, activation="linear", use_bias=True),
    _layer("Activation", "relu_3", trainable=True, activation="relu"),
    _layer("Dropout", "dropout", rate=0),
    _layer("Dense", "fc2", units=2, activation="linear", use_bias=True),
    _layer("Activation", "softmax", trainable=True, activation="log_softmax", axis=1),
]  # fmt: skip


def _write(folder: Path, *, num_epochs: int = 2, **data: Any) -> None:
    """Write the digits 0 and 1 and the config, with changes of its section `data`."""
    rng = np.random.default_rng(0)
    for part, count in (("training", 20), ("testing", 5)):
        for digit in "01":
            place = folder / "data" / "mnist_jpg" / part / digit
            place.mkdir(parents=True)
            for index in range(count):
                image, left = np.zeros((28, 28), np.uint8), int(rng.integers(10, 18))
                if digit == "1":
                    image[4:24, left : left + 3] = 250
                else:
                    cv2.circle(image, (left, 14), 8, 250, 2)
                assert cv2.imwrite(str(place / f"image_{index}.jpg"), image)
    section = {
        "input_type": "images",
        "input_path": "./data/mnist_jpg/training/",
        "test_input_path": "./data/mnist_jpg/testing/",
        "target_type": "labels",
        "batch_size": 16,
        "training_tag": "training",
        "test_tag": "testing",
        "grayscale": True,
        "transforms": [{"resize": [28, 28]}],
        **data,
    }
    config = {
        "outfile": "out_dnn_mnist_sgd.txt",
        "num_epochs": num_epochs,
        "data": {key: value for key, value in section.items() if value is not None},
        "optimizer": {"type": "SGD", "learning_rate": 0.01, "momentum": 0.5},
        "loss": {"function": "NLL"},
        "layers": LAYERS,
    }
    text = json.dumps({"neural_network": config})
    (folder / "config_rmldnn_test.json").write_text(text)


@pytest.fixture
def smoke(run: Run, tmp_path: Path) -> Callable[..., list[str]]:
    """Write the smoke run and start it as its README does; return the log without stamps."""

    def start(**changes: Any) -> list[str]:
        _write(tmp_path, **changes)
        result = run("rmldnn", "--config=", "./config_rmldnn_test.json", CUDA_VISIBLE_DEVICES="")
        assert result.returncode == 0, result.stderr
        stamp = r"\[\d{4}-[A-Z][a-z]{2}-\d\d \d\d:\d\d:\d\d\.\d{6}\] "
        lines = result.stdout.splitlines()
        assert all(re.match(stamp, line) for line in lines)
        return [re.sub(stamp, "", line, count=1) for line in lines]

    return start


def test_smoke_run_prints_what_is_published(smoke, tmp_path: Path) -> None:
    lines = smoke()
    found = iter(lines)
    for expected in PUBLISHED:  # in this order
        assert expected in found, expected
    for epoch in (1, 2):
        for batch in (1, 2, 3):
            pattern = (
                rf"Train Epoch \[  {epoch}/  2\] : Batch \[    {batch}/    3\] "
                r"\(Loss = \d\.\d{4}; \|g\| = \d\.\d{4}\) \[Data: \d+%; Compute: \d+%\]"
            )
            assert len([line for line in lines if re.fullmatch(pattern, line)]) == 1
        pattern = (
            rf"Eval  Epoch \[  {epoch}/  2\] : Batch \[    1/    1\] \(Loss: \d\.\d{{4}}\) "
            r"\| Accuracy: [01]\.\d{3}"
        )
        assert len([line for line in lines if re.fullmatch(pattern, line)]) == 1
    assert lines[-1] == "All done (return value = 0)."
    for part in ("train", "test"):
        assert (tmp_path / f"out_dnn_mnist_sgd_{part}.txt").stat().st_size > 0


def test_each_batch_has_its_own_line_and_numbers(smoke, tmp_path: Path) -> None:
    lines = smoke(batch_size=4, test_batch_size=3)
    losses = [re.search(r"\(Loss = (\S+);", line) for line in lines if line.startswith("Train")]
    text = (tmp_path / "out_dnn_mnist_sgd_train.txt").read_text()
    logged = [line.split() for line in text.splitlines()]
    assert [float(loss[1]) for loss in losses if loss] == [
        pytest.approx(float(line[3]), abs=1e-4) for line in logged
    ]
    evaluated = [line for line in lines if line.startswith("Eval  Epoch [  2/")]
    assert [line.split("Batch")[1][2:13] for line in evaluated] == [
        f"{batch:5d}/{4:5d}" for batch in (1, 2, 3, 4)
    ]
    # running: over the first 3 images, then 6, 9, and all 10
    counts = np.array([3, 6, 9, 10])
    rights = np.array([float(line.split()[-1]) for line in evaluated]) * counts
    np.testing.assert_allclose(rights, np.round(rights), atol=0.01)
    assert (np.diff(np.round(rights)) <= 3).all()


def test_tags_pick_each_part_out_of_one_folder(smoke) -> None:
    folder = "./data/"
    lines = smoke(input_path=folder, test_input_path=folder, test_tag=None, testing_tag="testing")
    totals = [line for line in lines if line.startswith("   Num images  (total)")]
    assert [int(line.split(":")[1]) for line in totals] == [40, 10]
    assert "Labels of 2 classes, by folder: 0 0, 1 1" in lines


def test_a_tag_that_no_path_has_is_refused(run: Run, tmp_path: Path) -> None:
    _write(tmp_path, training_tag="trainig")
    result = run("rmldnn", "--config=config_rmldnn_test.json")
    assert result.returncode == 2
    assert "data.training_tag: no image in" in result.stderr
    assert "folder 'trainig'" in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_tag": "a", "testing_tag": "b"}, "testing_tag and test_tag mean the same"),
        ({"target_type": None, "target_path": "x", "training_tag": "a"}, "training_tag is for im"),
        ({"input_type": "numpy", "training_tag": "a"}, "training_tag is for images"),
    ],
)
def test_tags_that_say_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    data = {"input_type": "images", "target_type": "labels", "input_path": "a", **change}
    data = {key: value for key, value in data.items() if value is not None}
    config = {"layers": "unet", "loss": {"function": "NLL"}, "data": data}
    with pytest.raises(ConfigError, match=message):
        parse_config({"neural_network": config})


def test_figures_of_the_pets_network_are_those_of_its_log() -> None:
    shape = (160, 160, 3)
    graph = parse_network(network_json("pets", shape, 3), "pets")
    assert check_network(graph, shape).num_operations == 73
    network = build_module(graph, shape)
    assert sum(weight.numel() for weight in network.parameters()) == 2_055_203


def test_a_driver_may_thin_the_log(run: Run, tmp_path: Path) -> None:
    _write(tmp_path, num_epochs=1, batch_size=2, test_batch_size=2)
    config = ("--config=config_rmldnn_test.json", "--set", "log_interval_s=3600")
    lines = run("rmldnn", *config).stdout.splitlines()
    assert sum("Train Epoch" in line for line in lines) == 1
    assert sum("Eval  Epoch" in line for line in lines) <= 2
