"""`rmldnn --predict`: masks and overlays at the size of the images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from support import write_config

from trainer.cli import main
from trainer.data.overlay import COLOURS, overlay
from trainer.networks import network_json


@pytest.fixture
def model(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights and the config that evaluates them."""
    monkeypatch.chdir(tmp_path)
    config = write_config(
        tmp_path / "config.json", discs, num_epochs=8, checkpoints={"save": "model/"}
    )
    assert main([f"--config={config}"]) == 0
    network = json.loads(config.read_text())["neural_network"]
    layers = network_json("unet:width=4,depth=2", (32, 32, 1), 1)
    (tmp_path / "model/layers.json").write_text(json.dumps(layers))
    network["layers"] = "./layers.json"
    network["checkpoints"] = {"load": "./model_checkpoint_8.pt"}
    (tmp_path / "model/config.json").write_text(json.dumps({"neural_network": network}))
    return tmp_path / "model"


def test_masks_have_the_images_size_and_the_data_sets_values(
    model: Path, discs: Path, tmp_path: Path
) -> None:
    images = tmp_path / "any size"
    images.mkdir()
    for size, path in zip((32, 50, 77), sorted((discs / "test/inputs").iterdir()), strict=False):
        image = cv2.imread(str(path))
        cv2.imwrite(str(images / path.name), cv2.resize(image, (size, size + 8)))
    out = tmp_path / "out"
    assert main(["--predict", str(model), "--images", str(images), "--out", str(out)]) == 0
    with h5py.File(out / "output_1.h5") as file:
        probabilities = {name: file[name][()] for name in file}
    assert sorted(probabilities) == sorted(path.name for path in images.iterdir())
    for path in images.iterdir():
        image = cv2.imread(str(path))
        mask = cv2.imread(str(out / "masks" / path.name), cv2.IMREAD_UNCHANGED)
        drawn = cv2.imread(str(out / "overlays" / path.name))
        assert mask.shape == image.shape[:2]
        assert drawn.shape == image.shape
        assert set(np.unique(mask)) <= {0, 255}
        resized = cv2.resize(probabilities[path.name][0], mask.shape[::-1])
        assert np.array_equal(mask > 0, resized > 0.5)
        assert np.array_equal(drawn[mask == 0], image[mask == 0])
    assert any(
        cv2.imread(str(path), cv2.IMREAD_UNCHANGED).any() for path in (out / "masks").iterdir()
    )


def test_masks_that_would_replace_each_other_are_refused_where_case_is_ignored(
    model: Path, discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    source = discs / "test/inputs/img 00.png"
    for name in ("A/img.png", "a/img.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        shutil.copy(source, tmp_path / "images" / name)
    command = ["--predict", str(model), "--images", str(tmp_path / "images"), "--out"]
    assert main([*command, str(tmp_path / "fine")]) == 0
    monkeypatch.setattr("trainer.commands.predict.ignores_case", lambda folder: True)
    capsys.readouterr()
    assert main([*command, str(tmp_path / "clash")]) == 2
    assert "takes 'A/img.png' and 'a/img.png' for one name" in capsys.readouterr().err


def test_overlay_tints_each_class_in_its_colour() -> None:
    image = np.full((9, 9, 3), 100, np.uint8)
    classes = np.zeros((9, 9), np.uint8)
    classes[1:4, 1:4], classes[5:8, 5:8] = 1, 2
    drawn = overlay(image, classes)
    assert tuple(drawn[1, 1]) == COLOURS[0]
    assert tuple(drawn[5, 5]) == COLOURS[1]
    assert tuple(drawn[2, 2]) == tuple(int(100 * 0.65 + c * 0.35) for c in COLOURS[0])
    assert (drawn[classes == 0] == 100).all()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--predict", "nowhere", "--images", ".", "--out", "o"], "nowhere/config.json"),
        (["--predict", "nowhere"], "--images"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert expected in capsys.readouterr().err
