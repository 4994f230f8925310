"""What a search offers for its winner: predict, score, export, plot, whatever it has chosen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import onnxruntime
import pytest
from support import data_section

from trainer.cli import main
from trainer.config import LOSSES
from trainer.networks import network_json
from trainer.networks.builtin import BUILTIN_NETWORKS

RULE = "inverse_frequency^0.35"
SIZE = 32
UNET = "unet:width=4,depth=2"
SMALL_FORMS = {"unet": UNET, "fcn8s": "fcn8s:fc=8", "fcn_alexnet": "fcn_alexnet:fc=8"}
# kind of data -> channels of the network, and what the data section has beside
KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "binary": (1, {}),
    "two channels": (2, {}),
    "RGB": (1, {"grayscale": False}),
    "16 bits": (1, {}),
    "classes": (3, {}),
    "mask values": (3, {"mask_values": [0, 100, 200]}),
    "threshold": (1, {"mask_threshold": 127}),
    "continuous": (1, {"target_is_mask": False, "target_grayscale": True}),
    "tiles": (1, {"transforms": [], "tiles": {"size": [16, 16]}}),
    "numpy": (1, {"type": "numpy", "transforms": [], "grayscale": False}),
    "hdf5": (1, {"type": "hdf5", "transforms": [], "grayscale": False}),
}
ARRAYS = ("numpy", "hdf5")
# An export takes seconds, so only where channels or size are not those of "binary".
OTHER_NETWORKS = ("binary", "two channels", "RGB", "16 bits", "tiles")


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs with a darker core, as each kind of data has them: 6 + 3 samples."""
    root = tmp_path_factory.mktemp("kinds of data")
    for kind in KINDS:
        rng = np.random.default_rng(0)
        for part, number in (("train", 6), ("test", 3)):
            for folder in ("inputs", "targets"):
                (root / kind / part / folder).mkdir(parents=True)
            for index in range(number):
                _write(root / kind / part, f"img {index}", kind, rng)
    return root


def _write(folder: Path, name: str, kind: str, rng: np.random.Generator) -> None:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    centre, radius = rng.uniform(0.3, 0.7, 2) * SIZE, rng.uniform(0.15, 0.3) * SIZE
    distance = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2
    ids = (distance < radius**2).astype(np.uint8) + (distance < (radius / 2) ** 2)
    image = np.clip(rng.normal(150 - 40.0 * ids, 20), 0, 255).astype(np.uint8)
    mask = np.where(ids > 0, 255, 0).astype(np.uint8)
    if kind in ("classes", "mask values"):
        mask = ids * np.uint8(100 if kind == "mask values" else 1)
    if kind in ("threshold", "continuous"):
        mask = cv2.GaussianBlur(mask, (0, 0), 2)
    if kind == "16 bits":
        image = image.astype(np.uint16) * 200
    if kind not in ARRAYS:
        cv2.imwrite(str(folder / "inputs" / f"{name}.png"), image)
        cv2.imwrite(str(folder / "targets" / f"{name}.png"), mask)
        return
    arrays = {"inputs": image[None].astype(np.float32) / 255, "targets": np.minimum(ids, 1)}
    for part, array in arrays.items():
        if kind == "numpy":
            np.save(folder / part / f"{name}.npy", array)
        else:
            with h5py.File(folder / part / f"{name}.h5", "w") as file:
                file["x"] = array


def train(data: Path, kind: str, loss: dict[str, Any], layers: object = UNET) -> None:
    """Train for one epoch in the current folder, and make `best_model/` as a search does."""
    channels, changes = KINDS[kind]
    section = data_section(data / kind) | changes
    shape = (SIZE, SIZE, 3 if kind == "RGB" else 1)
    network = layers if isinstance(layers, list) else network_json(str(layers), shape, channels)
    Path("net.json").write_text(json.dumps(network))
    config: dict[str, Any] = {
        "outfile": "out.txt", "num_epochs": 1, "layers": "net.json", "data": section,
        "optimizer": {"type": "adam"}, "loss": loss, "checkpoints": {"save": "model"},
    }  # fmt: skip
    Path("config.json").write_text(json.dumps({"neural_network": config}))
    assert main(["--config=config.json"]) == 0
    Path("best_model").mkdir()
    shutil.copy("net.json", "best_model/layers.json")
    shutil.copy("model/model_checkpoint_1.pt", "best_model/best_model_file.pt")
    for key in ("input_path", "target_path"):
        section.pop(key)
    config |= {"layers": "./layers.json", "checkpoints": {"load": "./best_model_file.pt"},
               "relative_to": "config"}  # fmt: skip
    del config["num_epochs"]
    Path("best_model/config.json").write_text(json.dumps({"neural_network": config}))


def check_commands(images: Path, *, onnx: bool = True) -> None:
    """Run all that is offered, and see that the recorded score comes out again.

    `onnx` is False where a network is the same as in another row: its export is, too.
    """
    assert main(["--plot", "out.txt"]) == 0
    trained = Path("out_test.txt").read_text().split()[-1]
    assert main(["--config=best_model/config.json"]) == 0
    assert float(Path("out_test.txt").read_text().split()[-1]) == pytest.approx(
        float(trained), abs=1e-5
    )
    assert main(["--predict", "best_model", "--images", str(images), "--out", "p"]) == 0
    assert len(list(Path("p/masks").glob("*.png"))) == len(list(images.iterdir()))
    assert main(["--config=best_model/config.json", "--export", "best.h5"]) == 0
    if onnx:
        assert main(["--config=best_model/config.json", "--export", "best.onnx"]) == 0
        check_onnx(images)


def check_onnx(images: Path) -> None:
    """See that the exported file gives what `--predict` wrote, where both see the same image.

    Not so where an image has 16 bits, whose range the file does not have, or is cut in tiles, or
    where a coarse output is enlarged.
    """
    session = onnxruntime.InferenceSession("best.onnx", providers=["CPUExecutionProvider"])
    size = tuple(session.get_inputs()[0].shape[2:])
    data = json.loads(Path("best_model/config.json").read_text())["neural_network"]["data"]
    flag = cv2.IMREAD_GRAYSCALE if data["grayscale"] else cv2.IMREAD_COLOR
    with h5py.File("p/output_1.h5") as file:
        for name in file:
            stored = cv2.imread(str(images / name), flag | cv2.IMREAD_ANYDEPTH)
            image = stored.reshape(SIZE, SIZE, -1).transpose(2, 0, 1)[:, : size[0], : size[1]]
            (output,) = session.run(None, {"image": image[None].astype(np.float32) / 255})
            expected = file[name][()]
            assert output.shape[1] == len(expected)
            if output.shape[1:] != expected.shape or stored.dtype != np.uint8:
                continue
            if len(expected) == 1 or output.sum(1) == pytest.approx(1, abs=1e-4):
                np.testing.assert_allclose(output[0], expected, atol=1e-4)
            else:  # logits or their logarithms there, probabilities here
                assert (output[0].argmax(0) == expected.argmax(0)).mean() > 0.99


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("weight", [None, (1.0, 2.0, 3.0), RULE], ids=["none", "numbers", "rule"])
@pytest.mark.parametrize("kind", ["binary", "classes"])
@pytest.mark.parametrize("function", LOSSES)
def test_winner_of_every_loss_and_weight(
    sets: Path, function: str, kind: str, weight: tuple[float, ...] | str | None
) -> None:
    if isinstance(weight, tuple):
        weight = weight[: max(2, KINDS[kind][0])]
    train(sets, kind, {"function": function} | ({"weight": weight} if weight else {}))
    check_commands(sets / kind / "test/inputs", onnx=False)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ARRAYS])
def test_winner_of_every_kind_of_images(sets: Path, kind: str) -> None:
    weight = {} if kind == "continuous" else {"weight": RULE}
    train(sets, kind, {"function": "NLL"} | weight)
    check_commands(sets / kind / "test/inputs", onnx=kind in OTHER_NETWORKS)


@pytest.mark.parametrize("kind", ARRAYS)
def test_winner_on_arrays_predicts_as_the_refusal_says(
    sets: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train(sets, kind, {"function": "BCE", "weight": RULE})
    images = sets / kind / "test/inputs"
    assert main(["--predict", "best_model", "--images", str(images), "--out", "p"]) == 2
    error = capsys.readouterr().err
    assert "set data.test_input_path and data.test_output_path in its config" in error
    path = Path("best_model/config.json")
    config = json.loads(path.read_text())
    del config["neural_network"]["data"]["test_target_path"]
    config["neural_network"]["data"]["test_output_path"] = "p"
    path.write_text(json.dumps(config))
    assert main([f"--config={path}"]) == 0
    with h5py.File("p/output_1.h5") as file:
        assert len(file) == 3
    for name in ("best.h5", "best.onnx") if kind == "numpy" else ("best.h5",):
        assert main([f"--config={path}", "--export", name]) == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("resunet", "fcn8s") else ())
        for name in BUILTIN_NETWORKS
    ],
)
def test_winner_of_every_network(sets: Path, name: str) -> None:
    train(sets, "classes", {"function": "NLL", "weight": RULE}, SMALL_FORMS.get(name, name))
    check_commands(sets / "classes/test/inputs")


@pytest.mark.parametrize("ending", ["linear", "sigmoid", "softmax", "log_softmax", "relu"])
@pytest.mark.parametrize("function", ["MSE", "Dice"])
def test_winner_of_every_last_activation(sets: Path, ending: str, function: str) -> None:
    network = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, SIZE, SIZE, 1]}},
        {"class_name": "Conv2D", "config": {"name": "only", "filters": 3, "kernel_size": 3,
                                            "padding": "same", "activation": ending}},
    ]  # fmt: skip
    train(sets, "classes", {"function": function, "weight": RULE}, network)
    check_commands(sets / "classes/test/inputs", onnx=function == "Dice")


def test_rule_on_values_that_are_no_classes_is_refused(
    sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(sets, "continuous", {"function": "MSE"})
    config = json.loads(Path("config.json").read_text())
    config["neural_network"]["loss"]["weight"] = RULE
    Path("config.json").write_text(json.dumps(config))
    assert main(["--config=config.json"]) == 2
    error = capsys.readouterr().err
    assert f"error: loss.weight: {RULE} counts classes, and the targets are continuous" in error
