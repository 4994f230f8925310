"""`load_model`: what `rmldnn --predict` writes comes out in Python, too."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from support import data_section, write_config

from trainer import load_model
from trainer.cli import main
from trainer.errors import ConfigError, DataError, WeightsError
from trainer.networks import network_json


@dataclass(frozen=True)
class Case:
    """A kind of model: channels of its output, its loss, and what its data section adds."""

    classes: int = 1
    loss: dict[str, object] = field(default_factory=lambda: {"function": "Dice"})
    data: dict[str, object] = field(default_factory=dict)
    bits: int = 8
    sizes: tuple[int, ...] = (32, 50, 77)
    ending: str | None = None  # the network's last activation, if another than the built-in's


GRAY, RESIZE = {"grayscale": True}, {"transforms": [{"resize": [32, 32]}]}
CASES = {
    "gray": Case(),
    "colour": Case(data={"grayscale": False}),
    "three classes": Case(classes=3, loss={"function": "NLL"}),
    "log_softmax": Case(
        classes=3, loss={"function": "NLL", "source": "log_softmax"}, ending="linear"
    ),
    "soft values": Case(loss={"function": "MSE"}),
    "16 bits": Case(bits=16),
    "crop and turn": Case(
        data={"transforms": [{"center_crop": [30, 28]}, {"rotate": 20}, {"resize": [32, 32]}]}
    ),
    "normalize": Case(
        data={
            "grayscale": False,
            "transforms": [
                {"resize": [32, 32]},
                {"normalize": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.1]}},
            ],
        }
    ),
    "tiles": Case(
        data={"transforms": [], "tiles": {"size": [16, 16], "overlap": 0.5}}, sizes=(32, 32, 32)
    ),
    "own size": Case(data={"transforms": []}, sizes=(48, 48, 48)),
    "own values": Case(classes=3, loss={"function": "NLL"}, data={"mask_values": [0, 40, 200]}),
}


def trained(case: Case, discs: Path, folder: Path) -> Path:
    """Train for two epochs and make a model folder as `best_model/` is."""
    data = folder / "data"
    for part in ("train", "test"):
        for kind in ("inputs", "targets"):
            (data / part / kind).mkdir(parents=True)
            for number, path in enumerate(sorted((discs / part / kind).iterdir())):
                image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
                if kind == "targets" and case.classes == 3:
                    image[: 4 + number, :9] = 128
                    values = case.data.get("mask_values", [0, 1, 2])
                    image = np.array(values, np.uint8)[np.searchsorted([0, 128, 255], image)]
                if kind == "inputs" and case.bits == 16:
                    image = image.astype(np.uint16) * 16 + 7
                cv2.imwrite(str(data / part / kind / path.name), image)
    section = data_section(data, **case.data)
    channels = 1 if section["grayscale"] else 3
    layers = json.dumps(network_json("unet:width=4,depth=2", (32, 32, channels), case.classes))
    if case.ending is not None:
        ours = '"activation": "softmax"'
        assert layers.count(ours) == 1
        layers = layers.replace(ours, f'"activation": "{case.ending}"')
    (folder / "layers.json").write_text(layers)
    config = write_config(
        folder / "config.json", data, num_epochs=2, loss=case.loss, layers="layers.json",
        checkpoints={"save": "model/"}, metrics={"include_background": True},
    )  # fmt: skip
    network = json.loads(config.read_text())["neural_network"] | {"data": section}
    config.write_text(json.dumps({"neural_network": network}))
    assert main([f"--config={config}"]) == 0
    shutil.copy(folder / "layers.json", folder / "model")
    network["layers"] = "./layers.json"
    network["checkpoints"] = {"load": "./model_checkpoint_2.pt"}
    network["relative_to"] = "config"
    (folder / "model/config.json").write_text(json.dumps({"neural_network": network}))
    return folder / "model"


def write_images(case: Case, folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(5)
    for index, size in enumerate(case.sizes):
        shape = (size + (8 if len(set(case.sizes)) > 1 else 0), size)
        image = rng.integers(0, 256, shape if case.data.get("grayscale", True) else (*shape, 3))
        smooth = cv2.blur(image.astype(np.uint8), (9, 9))
        stored = smooth.astype(np.uint16) * 16 + 7 if case.bits == 16 else smooth
        cv2.imwrite(str(folder / f"img {index}.png"), stored)
    return folder


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_predict_gives_what_the_command_writes(
    case: Case, discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = trained(case, discs, tmp_path)
    images = write_images(case, tmp_path / "images")
    assert main(["--predict", str(folder), "--images", str(images), "--out", "out"]) == 0
    model = load_model(folder, device="cpu")
    assert isinstance(model, torch.nn.Module)
    assert not model.training
    assert len(model.class_names) == max(2, case.classes)
    with h5py.File("out/output_1.h5") as file:
        for path in sorted(images.iterdir()):
            written = cv2.imread(f"out/masks/{path.name}", cv2.IMREAD_UNCHANGED)
            array = np.asarray(Image.open(path))
            for found in (model.predict(path), model.predict(array), model.predict(str(path))):
                assert np.array_equal(found.mask, written)
                assert found.mask.dtype == written.dtype
                # A batch of one sums in another order than a batch of several.
                np.testing.assert_allclose(found.output, file[path.name][()], rtol=2e-6, atol=1e-6)
                assert found.probability.shape == (case.classes, *written.shape)
            if "source" in case.loss:  # logarithms are interpolated, and their classes
                assert np.mean(found.classes != _most_probable(found.probability)) < 0.02
            elif case.loss["function"] != "MSE" and not _cuts(case):
                assert np.array_equal(found.classes, _most_probable(found.probability))
                if case.classes > 1:
                    np.testing.assert_allclose(found.probability.sum(0), 1, atol=1e-5)
            if case.data.get("tiles") is None:
                with torch.no_grad():
                    output = model(model.preprocess(path))[0].numpy()
                np.testing.assert_allclose(output, found.output, atol=1e-6)


def _cuts(case: Case) -> bool:
    return any("resize" not in step for step in case.data.get("transforms", ()))


def _most_probable(probability: np.ndarray) -> np.ndarray:
    return probability[0] > 0.5 if len(probability) == 1 else probability.argmax(0)


@pytest.fixture
def model_dir(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return trained(CASES["colour"], discs, tmp_path)


def test_colours_are_in_the_order_that_is_said(model_dir: Path) -> None:
    model = load_model(model_dir, device="cpu")
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)
    expected = model.predict(rgb).output
    assert np.array_equal(model.predict(rgb[:, :, ::-1], order="bgr").output, expected)
    assert not np.array_equal(model.predict(rgb[:, :, ::-1]).output, expected)
    with_alpha = np.dstack([rgb, np.full((40, 36), 9, np.uint8)])
    assert np.array_equal(model.predict(with_alpha).output, expected)
    gray = rgb[:, :, 0]
    assert np.array_equal(model.predict(gray).output, model.predict(np.dstack([gray] * 3)).output)


def test_a_model_that_is_trained_further_stays_in_training(model_dir: Path) -> None:
    model = load_model(model_dir, device="cpu").train()
    model.predict(np.zeros((40, 36, 3), np.uint8))
    assert model.network.training
    model(torch.zeros(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.zeros((8, 8, 3)), "float64; expected uint8 or uint16"),
        (np.zeros((8, 8, 2), np.uint8), "shape (8, 8, 2); expected one image"),
        (np.zeros((2, 8, 8, 3), np.uint8), "expected one image"),
        (np.zeros((8, 8, 3), np.uint16), "trained on images of 8 bits"),
        ("nowhere.png", "nowhere.png: no such file"),
        (str(Path(__file__).parent), "a folder; expected one image"),
    ],
)
def test_what_is_no_image_is_named(model_dir: Path, image: object, expected: str) -> None:
    with pytest.raises(DataError, match=r".+") as caught:
        load_model(model_dir, device="cpu").predict(image)
    assert expected in str(caught.value)


def test_mistakes_are_named(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"load_model: .*nowhere/config.json cannot be read"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="expected a folder such as best_model/, received None"):
        load_model(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="device: 'gpu' is not one of"):
        load_model(model_dir, device="gpu")
    with pytest.raises(DataError, match="order: 'BGR' is not"):
        load_model(model_dir, "cpu").predict(np.zeros((8, 8, 3), np.uint8), order="BGR")
    (model_dir / "model_checkpoint_2.pt").unlink()
    with pytest.raises(WeightsError, match="no such file"):
        load_model(model_dir)


def test_the_package_is_imported_without_torch() -> None:
    code = (
        "import sys, trainer, hpo; assert 'torch' not in sys.modules;"
        "assert 'optuna' not in sys.modules; assert 'load_model' in dir(trainer);"
        "trainer.load_model; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"data": "x"}, "is no config of rmldnn"),
        ({"data": {}, "metrics": [1]}, "metrics: expected an object"),
        ([], "is no config of rmldnn"),
    ],
)
def test_config_of_another_shape_is_refused_in_one_line(
    tmp_path: Path, network: object, said: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"neural_network": network}))
    with pytest.raises(ConfigError, match=said):
        load_model(tmp_path)
