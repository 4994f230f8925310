"""`rmldnn --predict`: masks and overlays at the size of the images."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from support import write_config

from trainer.cli import main
from trainer.data.overlay import COLOURS, dashed_outlines, overlay
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


def test_targets_give_a_table_of_cases_and_dashed_outlines(
    model: Path, discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, test = tmp_path / "out", discs / "test"
    command = ["--predict", str(model), "--images", str(test / "inputs"), "--out", str(out)]
    assert main([*command, "--targets", str(test / "targets")]) == 0
    rows = list(csv.DictReader((out / "cases.csv").read_text().splitlines()))
    expected = {}
    for path in sorted((test / "targets").iterdir()):
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) > 127
        found = cv2.imread(str(out / "masks" / path.name), cv2.IMREAD_UNCHANGED) > 0
        expected[path.name] = 2 * (truth & found).sum() / max(1, truth.sum() + found.sum())
    assert {row["name"]: float(row["dice"]) for row in rows} == pytest.approx(expected)
    assert [float(row["dice"]) for row in rows] == sorted(expected.values())
    lines = capsys.readouterr().out
    assert f"Dice {min(expected.values()):.4f}  {rows[0]['name']}" in lines
    assert "of 5 images at their own size" in lines


def test_dashes_are_on_the_masks_outline_only() -> None:
    image = np.full((20, 20, 3), 100, np.uint8)
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15] = 3
    drawn = dashed_outlines(image, mask)
    edge = np.zeros_like(mask)
    edge[5:15, 5:15] = 1
    edge[6:14, 6:14] = 0
    changed = (drawn != image).any(axis=2)
    assert np.array_equal(changed, edge == 1)
    assert {tuple(pixel) for pixel in drawn[changed].tolist()} == {(0, 0, 0), (255, 255, 255)}


def test_mask_of_another_size_is_refused(
    model: Path, discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in (discs / "test/targets").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(masks / path.name), mask[:20])
    images = str(discs / "test/inputs")
    command = ["--predict", str(model), "--images", images, "--targets", str(masks)]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "the mask is 20x32, its image 32x32" in capsys.readouterr().err
