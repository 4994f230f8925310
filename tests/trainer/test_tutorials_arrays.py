"""The seismic tutorial from training to its scores, and the Poisson tutorial, which is refused.

The survey is made here, in the tutorial's layout: layers of rock in one array for each part.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import conv, keras_file

from trainer.cli import main

SEISMIC = "unet3d_seismic.json"


def write_survey(folder: Path) -> None:
    """Write (x, y, z) arrays: four facies in wavy layers along z, each of its own amplitude."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, length in (("train", 18), ("test", 9)):
        x, y, z = np.meshgrid(*map(np.arange, (length, 11, 35)), indexing="ij")
        depth = z + 2 * np.sin(x / 5) + 2 * np.cos(y / 4)
        target = np.clip(depth // 9, 0, 3).astype(np.uint8)
        values = np.array([-1.5, -0.5, 0.5, 1.5])[target] + rng.normal(0, 0.05, target.shape)
        np.save(folder / f"input3D_{part}.npy", values.astype(np.float32))
        np.save(folder / f"target3D_{part}.npy", target)


def run(name: str, config: dict[str, Any]) -> int:
    Path(name).write_text(json.dumps({"neural_network": config}))
    return main(["--config=", f"./{name}"])


def test_seismic_tutorial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_survey(Path("parihaka"))
    keras_file(
        Path(SEISMIC),
        conv(3, 8),
        ("Conv3D", {"filters": 4, "kernel_size": [1, 1, 1], "activation": "log_softmax"}),
        shape=(None, None, None, 1),
    )
    train = {
        "outfile": "out_seismic3d.txt",
        "checkpoints": {"save": "./model_seismic3d/", "interval": 2},
        "layers": f"./{SEISMIC}",
        "num_epochs": 4,
        "data": {
            "type": "numpy",
            "input_path": "./parihaka/input3D_train.npy",
            "target_path": "./parihaka/target3D_train.npy",
            "test_input_path": "./parihaka/input3D_test.npy",
            "test_target_path": "./parihaka/target3D_test.npy",
            "batch_size": 4,
            "test_batch_size": 16,
            "preload": True,
            "slicers": [
                {
                    "name": "samples",
                    "sizes": [8, 8, 16],
                    "strides": [8, 8, 3],
                    "discard_remainders": True,
                }
            ],
        },
        "optimizer": {"type": "Adam", "learning_rate": 0.03},
        "loss": {"function": "NLL"},
    }
    assert run("config_dnn_seismic3d.json", train) == 0, capsys.readouterr().err
    log = capsys.readouterr().out
    # 2 x 1 x 7 blocks of (18, 11, 35), and 1 x 1 x 7 of the test block
    assert [line.split(": ")[1] for line in log.splitlines() if "(total)" in line] == ["14", "7"]
    inference = {
        "outfile": "out_inference.txt",
        "checkpoints": {"load": "./model_seismic3d/model_checkpoint_4.pt"},
        "layers": f"./{SEISMIC}",
        "data": {
            "type": "numpy",
            "test_input_path": "./parihaka/input3D_test.npy",
            "test_target_path": "./parihaka/target3D_test.npy",
            "hdf5_outfile": "./prediction.h5",
            "test_output_path": "./prediction/",
            "test_batch_size": 1,
            "slicers": [{"name": "pred", "sizes": [8, 8, 32], "discard_remainders": True}],
        },
        "loss": {"function": "Dice", "source": "log_softmax"},
    }
    assert run("config_dnn_seismic3d_inference.json", inference) == 0, capsys.readouterr().err
    with h5py.File("prediction.h5", "r") as file:
        pred = file["pred"][()].argmax(-1)
    target = np.load("./parihaka/target3D_test.npy")[:8, :8, :32]
    assert pred.shape == target.shape
    # f1-score of each class and their "macro avg", as scikit-learn's report has them
    scores = []
    for facies in range(4):
        precision = (target[pred == facies] == facies).mean()
        recall = (pred[target == facies] == facies).mean()
        scores.append(2 * precision * recall / (precision + recall))
    accuracy = float(Path("out_inference_test.txt").read_text().split()[-1])
    assert accuracy == pytest.approx(np.mean(scores), abs=1e-6)
    assert accuracy > 0.7
    # the whole slab as one sample, channels first, is what test_output_path has
    with h5py.File("prediction/output_1.h5", "r") as file:
        (name,) = file
        np.testing.assert_array_equal(file[name][()].argmax(0), pred)


POISSON = {
    "outfile": "out_dnn_poisson3d.txt",
    "num_epochs": 20,
    "layers": "./unet3d_poisson.json",
    "checkpoints": {"save": "./model_poisson3d/", "interval": 5},
    "data": {
        "type": "numpy",
        "input_path": "./diffusivity_maps/",
        "target_path": "./diffusivity_maps/",
        "batch_size": 128,
        "preload": True,
    },
    "optimizer": {"type": "Adam", "learning_rate": 1e-4},
    "loss": {"function": "Poisson3D_PDE"},
}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--app=pde"], "--app=pde"),
        ([], "loss.function: unknown name 'Poisson3D_PDE'"),
    ],
)
def test_poisson_tutorial_is_refused_by_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config_poisson3d_pde.json").write_text(json.dumps({"neural_network": POISSON}))
    assert main([*options, "--config=", "./config_poisson3d_pde.json"]) == 2
    printed = capsys.readouterr()
    assert named in printed.err
    assert "Traceback" not in printed.err
    assert len(printed.err.splitlines()) == 1
