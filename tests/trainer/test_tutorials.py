"""The brain-MRI and the pets tutorial, as their readers type them: train, predict, read the file.

The images are made here in each tutorial's layout; epochs and sizes are the tests' own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from support import Run

from trainer.networks.builtin import network_json

SIZE = 96


def test_brain_tutorial_from_training_to_reading_predictions(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 3), ("sample", 2)):
        for index in range(count):
            image, labels = _scene(rng)
            name = f"TCGA_XX_{part}_{index}.png"
            folder = tmp_path / "data" / ("sample" if part == "sample" else f"{part}_image")
            _write(folder / name, image)
            if part != "sample":
                _write(tmp_path / f"data/{part}_mask" / name, (labels == 0).astype(np.uint8) * 255)
    _write_network(
        tmp_path / "layers_resunet.json", "unet:width=4,depth=2", size=64, num_classes=1
    )
    resize = {"resize": [64, 64]}
    train = {
        "outfile": "out_segmentation.txt",
        "num_epochs": 2,
        "layers": "./layers_resunet.json",
        "checkpoints": {"save": "model_MRI_segmentation/", "interval": 10},
        "data": {
            "type": "images",
            "input_path": "./data/train_image/",
            "target_path": "./data/train_mask/",
            "test_input_path": "./data/test_image/",
            "test_target_path": "./data/test_mask/",
            "batch_size": 32,
            "test_batch_size": 64,
            "preload": True,
            "target_grayscale": True,
            "target_is_mask": True,
            "transforms": [resize],
        },
        "optimizer": {
            "type": "adam",
            "learning_rate": 0.0001,
            "lr_scheduler": {"type": "Exponential", "gamma": 0.95, "verbose": True},
        },
        "loss": {"function": "Dice", "source": "sigmoid"},
    }
    test = {
        "layers": "./layers_resunet.json",
        "checkpoints": {"load": "./model_MRI_segmentation/model_checkpoint_2.pt"},
        "data": {
            "type": "images",
            "test_input_path": "./data/sample/",
            "test_output_path": "./predictions/",
            "test_batch_size": 16,
            "transforms": [resize],
        },
    }
    _train_and_predict(run, tmp_path, train, test)

    scores = (tmp_path / "out_segmentation_test.txt").read_text().splitlines()
    assert [line.split()[0] for line in scores] == ["1", "2"]
    # the tutorial's own lines, but for showing the images
    pred = h5py.File(tmp_path / "predictions/output_1.h5", "r")
    shown = {dataset: pred[dataset][0, :, :].round() for dataset in pred}
    assert sorted(shown) == ["TCGA_XX_sample_0.png", "TCGA_XX_sample_1.png"]
    assert all(image.shape == (64, 64) for image in shown.values())
    assert set(np.unique(list(shown.values()))) <= {0.0, 1.0}
    pred.close()


def test_pets_tutorial_from_training_to_reading_predictions(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    breeds = ("Abyssinian", "beagle")
    for part, count in (("training", 5), ("testing", 2)):
        for index in range(count):
            image, labels = _scene(rng)
            name = f"{breeds[index % 2]}_{140 + index}"
            _write(tmp_path / f"oxford_pets/{part}/inputs/{name}.jpg", image)
            _write(tmp_path / f"oxford_pets/{part}/masks/{name}.png", labels)
    _write(tmp_path / "samples/Abyssinian_142.jpg", _scene(rng)[0])
    _write_network(tmp_path / "network_xception2D.json", "pets", size=32, num_classes=3)
    resize = {"resize": [32, 32]}
    train = {
        "outfile": "out_dnn_pets_segmentation.txt",
        "num_epochs": 2,
        "layers": "./network_xception2D.json",
        "checkpoints": {"save": "model_pets_segmentation/", "interval": 1},
        "data": {
            "type": "images",
            "input_path": "./oxford_pets/training/inputs/",
            "target_path": "./oxford_pets/training/masks/",
            "test_input_path": "./oxford_pets/testing/inputs/",
            "test_target_path": "./oxford_pets/testing/masks/",
            "batch_size": 64,
            "test_batch_size": 128,
            "preload": True,
            "target_grayscale": True,
            "target_is_mask": True,
            "transforms": [resize, {"normalize": {"mean": 0.0, "std": 0.003921568}}],
        },
        "optimizer": {"type": "rmsprop", "learning_rate": 1e-3},
        "loss": {"function": "Dice", "source": "softmax"},
    }
    test = {
        "layers": "./network_xception2D.json",
        "checkpoints": {"load": "./model_pets_segmentation/model_checkpoint_2.pt"},
        "data": {
            "type": "images",
            "test_input_path": "./samples/",
            "test_output_path": "./predictions/",
            "test_batch_size": 16,
            "transforms": [resize, {"normalize": {"std": 0.003921568}}],
        },
    }
    _train_and_predict(run, tmp_path, train, test)

    metrics = (tmp_path / "out_dnn_pets_segmentation_metrics.jsonl").read_text().splitlines()
    assert len(json.loads(metrics[-1])["per_class"]) == 3
    # the tutorial's own lines, but for showing the image
    file = h5py.File(tmp_path / "predictions/output_1.h5", "r")
    output = file["Abyssinian_142.jpg"][()]
    pred = output.transpose(1, 2, 0).argmax(2)
    assert pred.shape == (32, 32)
    np.testing.assert_allclose(output.sum(axis=0), 1, atol=1e-5)
    file.close()


def _train_and_predict(
    run: Run, folder: Path, train: dict[str, Any], test: dict[str, Any]
) -> None:
    """Run both configs as the tutorials do, blank after `--config=` included."""
    for name, config in (("config_train.json", train), ("config_test.json", test)):
        (folder / name).write_text(json.dumps({"neural_network": config}))
        result = run("rmldnn", "--config=", f"./{name}")
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.endswith("All done (return value = 0).\n")


def _scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a colour image of a disc with a rim, and its labels: 0 disc, 1 surroundings, 2 rim."""
    rows, columns = np.mgrid[:SIZE, : SIZE + 8]
    centre, radius = rng.uniform(0.35, 0.65, 2) * SIZE, rng.uniform(0.15, 0.3) * SIZE
    distance = np.hypot(rows - centre[0], columns - centre[1]) - radius
    labels = np.where(distance < 0, 0, np.where(distance < 4, 2, 1)).astype(np.uint8)
    shades = np.array([[60, 90, 200], [160, 150, 140], [240, 240, 240]])[labels]
    image = np.clip(rng.normal(shades, 20), 0, 255).astype(np.uint8)
    return image, labels


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def _write_network(path: Path, name: str, *, size: int, num_classes: int) -> None:
    path.write_text(json.dumps(network_json(name, (size, size, 3), num_classes)))
