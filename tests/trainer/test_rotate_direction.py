"""`rotate` turns clockwise; what was trained when it turned the other way still does."""

from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np
import torch
from arrays import keras_file
from worker import Worker, write_png

TURNED = [{"resize": [32, 32]}, {"rotate": 30}]
BEFORE = {"data__rotate_direction": "counterclockwise"}


def _forget_direction(path: Path) -> None:
    """Make of a checkpoint, or a state to go on from, one of the time before."""
    content = torch.load(path, weights_only=True)
    if "rotate_direction" in content:
        del content["rotate_direction"]
    else:
        del content["config"]["data"]["rotate_direction"]
    torch.save(content, path)


def test_stored_model_turns_images_as_its_training_did(worker: Worker, tmp_path: Path) -> None:
    settings = {"data__transforms": TURNED, "num_epochs": 2}
    scores = {}
    for direction in ("clockwise", "counterclockwise"):
        trained = worker(
            **settings, data__rotate_direction=direction, checkpoints={"save": direction}
        ).succeeded()
        path = tmp_path / direction / "model_checkpoint_2.pt"
        test = {"data__input_path": None, "data__target_path": None}
        again = worker(**settings, **test, checkpoints={"load": str(path)}).succeeded()
        assert again.accuracies[-1] == trained.accuracies[-1]
        scores[direction] = trained.accuracies[-1]
    assert scores["clockwise"] != scores["counterclockwise"]
    _forget_direction(path)
    old = worker(**settings, **test, checkpoints={"load": str(path)}).succeeded()
    assert old.accuracies[-1] == scores["counterclockwise"]
    assert "Images are turned counter-clockwise by `rotate`, as when" in old.out


def test_run_of_an_earlier_release_goes_on_turning_as_it_did(worker: Worker) -> None:
    settings = {"data__transforms": TURNED, "num_epochs": 4}
    whole = worker(**settings, **BEFORE, checkpoints={"save": "whole"}).succeeded()
    resume = {"save": "ck", "resume": True}
    folder = worker(**{**settings, "num_epochs": 2}, **BEFORE, checkpoints=resume).folder
    _forget_direction(folder / "ck/resume.pt")
    resumed = worker(**settings, checkpoints=resume).succeeded()
    assert "Resuming after epoch 2" in resumed.out
    assert resumed.losses == whole.losses
    assert resumed.accuracies == whole.accuracies


def test_masks_of_an_old_model_are_brought_back_the_way_it_turned(
    run, worker: Worker, tmp_path: Path
) -> None:
    """A network that gives the image back: its mask lies where the image is bright."""
    same = {
        "filters": 1,
        "kernel_size": [1, 1],
        "kernel_initializer": "ones",
        "activation": "relu",
    }
    layers = keras_file(tmp_path / "layers.json", ("Conv2D", same), shape=(32, 32, 1))
    # Its weights as they are: trained with a rate that moves nothing.
    folder = worker(
        layers=str(layers),
        data__transforms=[{"rotate": 30}],
        data__grayscale=True,
        data__cache="off",
        loss={"function": "MSE"},
        optimizer={"type": "SGD", "learning_rate": 1e-12},
        checkpoints={"save": "."},
        **BEFORE,
    ).folder
    _forget_direction(folder / "model_checkpoint_1.pt")
    config = '{"neural_network": {"layers": "layers.json", "relative_to": "config", '
    config += '"checkpoints": {"load": "model_checkpoint_1.pt"}, "loss": {"function": "MSE"}, '
    config += '"data": {"grayscale": true, "transforms": [{"rotate": 30}]}}}'
    (tmp_path / "config.json").write_text(config)
    image = np.zeros((32, 32), np.uint8)
    image[10:14, 18:24] = 255
    write_png(tmp_path / "in/a.png", image)
    result = run("rmldnn", "--predict", ".", "--images", "in", "--out", "out")
    assert result.returncode == 0, result.stderr
    mask = cv2.imread(str(tmp_path / "out/masks/a.png"), cv2.IMREAD_UNCHANGED)
    outline = cv2.dilate(image, np.ones((3, 3))) != cv2.erode(image, np.ones((3, 3)))
    assert not (((mask > 0) != (image > 0)) & ~outline).any()
    matrix = cv2.getRotationMatrix2D((15.5, 15.5), 30, 1)  # counter-clockwise
    with h5py.File(tmp_path / "out/output_1.h5") as file:
        np.testing.assert_allclose(
            file["a.png"][0] * 255, cv2.warpAffine(image, matrix, (32, 32)), atol=1e-2
        )
