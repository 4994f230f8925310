"""The tutorials that classify: MNIST, birds, satellite, inpainting; as their readers type them.

The images are drawn here in each tutorial's layout; networks, sizes and epochs are the tests' own.
The lines that read predictions are of the kind that the tutorials print.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import h5py
import h5py as h5
import numpy as np
import pytest
import torch

from trainer.cli import main

Rmldnn = Callable[..., str]
NLL = {"function": "NLL"}


@pytest.fixture
def rmldnn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Rmldnn]:
    """Write a config under its tutorial's name, run it with a blank after `=`, return the log."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, config: dict[str, Any]) -> str:
        Path(name).write_text(json.dumps({"neural_network": config}))
        assert main(["--config=", f"./{name}"]) == 0, capsys.readouterr().err
        printed = capsys.readouterr().out
        assert printed.endswith("All done (return value = 0).\n")
        return printed

    yield run


def layer(kind: str, name: str, source: str | None, **config: Any) -> dict[str, Any]:
    nodes = [] if source is None else [[[source, 0, 0, {}]]]
    config = {"name": name, "trainable": True, "dtype": "float32", **config}
    return {"class_name": kind, "name": name, "config": config, "inbound_nodes": nodes}


def write_network(path: str, layers: list[dict[str, Any]]) -> None:
    """Write a functional network as Keras 2 does."""
    first, last = layers[0]["name"], layers[-1]["name"]
    config = {
        "name": "model", "layers": layers,
        "input_layers": [[first, 0, 0]], "output_layers": [[last, 0, 0]],
    }  # fmt: skip
    model = {"class_name": "Functional", "config": config, "keras_version": "2.7.0"}
    Path(path).write_text(json.dumps(model, indent=4))


def conv(name: str, source: str, filters: int, **config: Any) -> dict[str, Any]:
    config = {"kernel_size": [3, 3], "strides": [2, 2], "padding": "same"} | config
    return layer("Conv2D", name, source, filters=filters, **config)


def encoder(size: int, *, frozen: bool) -> list[dict[str, Any]]:
    """Describe a small network that begins as ResNet-50 does, with its layers' names."""
    trainable = {"trainable": not frozen}
    return [
        layer("InputLayer", "input_1", None, batch_input_shape=[None, size, size, 3]),
        conv("conv1_conv", "input_1", 8, **trainable),
        layer("BatchNormalization", "conv1_bn", "conv1_conv", axis=[3], epsilon=1.001e-05,
              **trainable),
        layer("Activation", "conv1_relu", "conv1_bn", activation="relu"),
        conv("conv2_conv", "conv1_relu", 16, activation="relu", **trainable),
    ]  # fmt: skip


def classifier(num_classes: int, **config: Any) -> list[dict[str, Any]]:
    return [
        layer("GlobalAveragePooling2D", "avg_pool", "conv2_conv"),
        layer("Dense", "dense", "avg_pool", units=num_classes, activation="log_softmax", **config),
    ]


def write_photos(
    root: Path, classes: list[str], counts: dict[str, int], size: int, seed: int = 0
) -> None:
    """Write ROOT/PART/CLASS/N.jpg: each class has a colour of its own, on noise."""
    rng = np.random.default_rng(seed)
    hues = np.linspace(0, 150, len(classes)).astype(np.uint8)
    for part, count in counts.items():
        for name, hue in zip(classes, hues, strict=True):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                hsv = np.full((size, size, 3), (hue, 230, 200), np.uint8)
                image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR).astype(float)
                image = np.clip(image + rng.normal(0, 25, image.shape), 0, 255).astype(np.uint8)
                assert cv2.imwrite(str(root / part / name / f"{index + 1}.jpg"), image)


def last_accuracy(path: str) -> float:
    return float(Path(path).read_text().split()[-1])


def test_mnist_tutorial(rmldnn: Rmldnn) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("training", 12), ("testing", 3)):
        for digit in range(10):
            Path(f"mnist/{part}/{digit}").mkdir(parents=True)
            for index in range(count):
                image = rng.integers(0, 60, (28, 28), dtype=np.uint8)
                image[4:24, 2 * digit + 3 : 2 * digit + 6] = 250
                assert cv2.imwrite(f"mnist/{part}/{digit}/{index}.jpg", image)
    Path("mnist_digits").mkdir()
    order = [3, 5, 1, 9, 4, 7, 2, 0, 6, 8]
    for index, digit in enumerate(order):
        shutil.copy(f"mnist/testing/{digit}/0.jpg", f"mnist_digits/digit_{index}.jpg")
    sequential = {"class_name": "Sequential", "config": {"name": "sequential", "layers": [
        layer("InputLayer", "input_1", None, batch_input_shape=[None, 28, 28, 1]),
        layer("Conv2D", "conv2d", None, filters=8, kernel_size=[3, 3], activation="relu"),
        layer("MaxPooling2D", "max_pooling2d", None, pool_size=[2, 2], strides=[2, 2]),
        layer("Flatten", "flatten", None, data_format="channels_last"),
        layer("Dropout", "dropout", None, rate=0.5),
        layer("Dense", "dense", None, units=10, activation="log_softmax"),
    ]}, "keras_version": "2.4.0", "backend": "tensorflow"}  # fmt: skip
    for entry in sequential["config"]["layers"]:
        del entry["inbound_nodes"], entry["name"]
    Path("mnist_keras_net.json").write_text(json.dumps(sequential, indent=4))
    rmldnn("config_mnist_training.json", {
        "outfile": "out_mnist.txt",
        "num_epochs": 3,
        "layers": "./mnist_keras_net.json",
        "checkpoints": {"save": "./mnist_model/", "interval": 3},
        "data": {
            "input_type": "images",
            "target_type": "labels",
            "input_path": "./mnist/training/",
            "test_input_path": "./mnist/testing/",
            "batch_size": 8,
            "grayscale": True,
            "preload": True,
        },
        "optimizer": {"type": "Adam", "learning_rate": 1e-2},
        "loss": NLL,
    })  # fmt: skip
    assert last_accuracy("out_mnist_test.txt") == 1.0
    rmldnn("config_mnist_test.json", {
        "layers": "./mnist_keras_net.json",
        "checkpoints": {"load": "./mnist_model/model_checkpoint_3.pt"},
        "data": {
            "input_type": "images",
            "test_input_path": "./mnist_digits/",
            "test_output_path": "./mnist_predictions/",
            "grayscale": True,
        },
    })  # fmt: skip
    found = []
    pred = h5py.File("./mnist_predictions/output_1.h5", "r")
    for dataset in pred:
        assert pred[dataset][()].shape == (10,)
        found.append(np.argmax(pred[dataset][()]))
    pred.close()
    assert found == order


def test_birds_tutorial(rmldnn: Rmldnn, tmp_path: Path) -> None:
    species = [
        "ABBOTTS BABBLER",
        "ABBOTTS BOOBY",
        "BLACK & YELLOW BROADBILL",
        "YELLOW HEADED BLACKBIRD",
    ]
    write_photos(tmp_path / "data", species, {"train": 6, "valid": 2, "test": 2}, size=28)
    write_network("layers.json", [*encoder(24, frozen=True), *classifier(len(species))])
    # The tutorial's base network comes from Keras; ours from the network's file, as Keras's .h5.
    write_network("base.json", [*encoder(24, frozen=True), *classifier(len(species))])
    resize = [{"resize": [24, 24]}]
    start = {"layers": "base.json", "seed": 5, "data": {"input_type": "images",
             "test_input_path": "./data/valid", "transforms": resize}}  # fmt: skip
    Path("start.json").write_text(json.dumps({"neural_network": start}))
    assert main(["--config=start.json", "--export", "model_resnet50_imagenet.h5"]) == 0
    log = rmldnn("config_train.json", {
        "num_epochs": 6,
        "outfile": "out_classifier.txt",
        "layers": "./layers.json",
        "checkpoints": {
            "load": "./model_resnet50_imagenet.h5",
            "save": "model_checkpoints_save/",
            "interval": 2,
        },
        "data": {
            "input_type": "images",
            "target_type": "labels",
            "input_path": "./data/train/",
            "test_input_path": "./data/valid/",
            "batch_size": 4,
            "test_batch_size": 128,
            "preload": True,
            "transforms": resize,
        },
        "optimizer": {
            "type": "Adam",
            "learning_rate": 0.2,
            "lr_scheduler": {"type": "Exponential", "gamma": 0.7},
        },
        "loss": NLL,
    })  # fmt: skip
    assert "not found in model" not in log
    assert sorted(path.name for path in Path("model_checkpoints_save").iterdir()) == [
        f"model_checkpoint_{epoch}.pt" for epoch in (2, 4, 6)
    ]

    # test_sample.py
    src, dest = Path("./data/test/"), Path("./test_samples/")
    dest.mkdir()
    for directory in src.iterdir():
        random_file = random.choice([*directory.iterdir()])
        shutil.copy(random_file, dest / f"{directory.name}{random_file.name}")

    rmldnn("config_test.json", {
        "layers": "./layers.json",
        "checkpoints": {"load": "./model_checkpoints_save/model_checkpoint_6.pt"},
        "data": {
            "input_type": "images",
            "test_input_path": "./test_samples/",
            "test_output_path": "./predictions/",
            "transforms": resize,
        },
    })  # fmt: skip
    # print_predictions.py
    right, size, i = 0, len(species), 0
    pred = h5.File("./predictions/output_1.h5", "r")
    for dataset in pred:
        x = np.argmax(pred[dataset][()])
        if x == i:
            right += 1
        i += 1
    pred.close()
    assert i == size
    assert 100 * right / size == 100
    assert last_accuracy("out_classifier_test.txt") == 1.0


def test_satellite_tutorial(rmldnn: Rmldnn, tmp_path: Path) -> None:
    """All but the BatchNormalizations is frozen; the predictions are read by class."""
    class_labels = {"AnnualCrop": 0, "Forest": 1, "River": 2}
    write_photos(tmp_path / "data", [*class_labels], {"train": 6, "valid": 2, "test": 3}, size=24)
    network = [*encoder(24, frozen=True), *classifier(3, trainable=False)]
    network[2]["config"] |= {"trainable": True, "center": True, "scale": False}
    write_network("network.json", network)
    resize = [{"resize": [24, 24]}]
    train = {
        "num_epochs": 5,
        "outfile": "out_satellite_classifier.txt",
        "layers": "./network.json",
        "checkpoints": {"save": "./model_checkpoints/", "interval": 5},
        "data": {
            "input_type": "images",
            "target_type": "labels",
            "input_path": "./data/train/",
            "test_input_path": "./data/valid/",
            "batch_size": 6,
            "test_batch_size": 128,
            "preload": True,
            "transforms": resize,
        },
        "optimizer": {
            "type": "Adam",
            "learning_rate": 0.05,
            "lr_scheduler": {"type": "Exponential", "gamma": 0.95},
        },
        "loss": NLL,
    }
    log = rmldnn("config_train.json", train)
    assert "Trainable parameters: 8\n" in log  # the BatchNormalization's beta
    shutil.copy("model_checkpoints/model_checkpoint_5.pt", "five.pt")
    rmldnn("config_longer.json", train | {"num_epochs": 6, "checkpoints": {"save": "longer/"}})
    five, six = (
        torch.load(path, weights_only=True)["state_dict"]
        for path in ("five.pt", "longer/model_checkpoint_6.pt")
    )
    changed = {name for name in five if not torch.equal(five[name], six[name])}
    assert changed
    assert all("conv1_bn" in name for name in changed)
    rmldnn("config_test.json", {
        "layers": "./network.json",
        "checkpoints": {"load": "./five.pt"},
        "data": {
            "input_type": "images",
            "test_input_path": "./data/test/",
            "test_output_path": "./predictions/",
            "transforms": resize,
        },
    })  # fmt: skip

    # compute_accuracy.py
    right, total = 0, 0
    h5file = h5.File("./predictions/output_1.h5", "r")
    for group in h5file:
        for dset in h5file[group]:
            pred_label = np.argmax(h5file[group][dset][()])
            if pred_label == class_labels[group]:
                right += 1
            total += 1
    h5file.close()
    assert total == 9
    # the engine's own accuracy on the same images
    labelled = {"input_type": "images", "target_type": "labels", "transforms": resize,
                "test_input_path": "./data/test/"}  # fmt: skip
    rmldnn("config_score.json", {"layers": "./network.json", "outfile": "score.txt", "loss": NLL,
           "checkpoints": {"load": "./five.pt"}, "data": labelled})  # fmt: skip
    assert right / total == pytest.approx(last_accuracy("score_test.txt"), abs=1e-6)


def test_inpainting_tutorial(rmldnn: Rmldnn, tmp_path: Path) -> None:
    """From the context encoder's checkpoint to the classifier, whose optimizer is the Hessian."""
    classes = ["airplane", "car", "cat"]
    counts = {"training": 5, "testing": 2}
    write_photos(tmp_path / "natural_images", classes, counts, size=20)
    shared = encoder(16, frozen=False)
    decoder = [
        layer("Conv2DTranspose", "up_1", "conv2_conv", filters=8, kernel_size=[2, 2],
              strides=[2, 2], activation="relu"),
        layer("Conv2DTranspose", "up_2", "up_1", filters=3, kernel_size=[2, 2], strides=[2, 2],
              activation="sigmoid"),
    ]  # fmt: skip
    write_network("network_resnet50_feature_extract.json", [*shared, *decoder])
    frozen = encoder(16, frozen=True)
    write_network("network_resnet50_classifier.json", [*frozen, *classifier(len(classes))])
    rmldnn("config_inpaint_feature_extraction.json", {
        "num_epochs": 2,
        "outfile": "out_inpaint_feature_extraction.txt",
        "layers": "./network_resnet50_feature_extract.json",
        "checkpoints": {"save": "./model_checkpoints/", "interval": 10},
        "data": {
            "type": "images",
            "input_path": "./natural_images/training/",
            "target_path": "./natural_images/training/",
            "batch_size": 8,
            "preload": True,
            "transforms": [
                {"resize": [16, 16]},
                {"random_patches": {"number": 4, "size": 4}},
            ],
        },
        "optimizer": {"type": "Adam", "learning_rate": 0.001},
        "loss": {"function": "BCE"},
    })  # fmt: skip
    assert Path("out_inpaint_feature_extraction_train.txt").stat().st_size > 0
    log = rmldnn("config_inpaint_classifier.json", {
        "num_epochs": 3,
        "outfile": "out_inpaint_classifier.txt",
        "layers": "./network_resnet50_classifier.json",
        "checkpoints": {"load": "./model_checkpoints/model_checkpoint_2.pt"},
        "data": {
            "input_type": "images",
            "target_type": "labels",
            "input_path": "./natural_images/training/",
            "test_input_path": "./natural_images/testing",
            "batch_size": 128,
            "test_batch_size": 1024,
            "preload": True,
            "transforms": [{"resize": [16, 16]}],
        },
        "optimizer": {"type": "Hessian", "max_iterations": 10},
        "loss": NLL,
    })  # fmt: skip
    # "rmldnn warns about not finding the weights and biases for the Dense layer"
    skipped = [line.split("] ", 1)[1] for line in log.splitlines() if "not found in model" in line]
    assert len(skipped) == 2
    assert all("dense" in line for line in skipped)
    assert last_accuracy("out_inpaint_classifier_test.txt") == 1.0
