"""The command line is the reference's, with a few switches of our own."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from worker import Worker, base_config, write_json

from trainer import __version__
from trainer.cli import main
from trainer.config import EXTENSIONS


@pytest.fixture
def config(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_json(tmp_path / "config.json", base_config(discs))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config=config.json"],
        ["--config=", "config.json"],
        ["--config", "config.json"],
        ["--app=seg", "--config=config.json"],
    ],
)
def test_config_is_taken_in_every_spelling(config: Path, arguments, capsys) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith("All done (return value = 0).\n")


def test_other_applications_are_refused(config: Path, capsys) -> None:
    assert main(["--app=classify", "--config=config.json"]) == 2
    assert "--app=classify: only 'seg'" in capsys.readouterr().err


def test_missing_config_option_is_named(capsys) -> None:
    assert main([]) == 2
    assert "rmldnn --config=config.json" in capsys.readouterr().err


def test_unknown_option_ends_with_2(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--confg=config.json"])
    assert caught.value.code == 2


def test_set_changes_any_field(worker: Worker) -> None:
    result = worker(
        "--set", "num_epochs=2", "--set", "data.transforms[0].resize=[16,16]",
        "--set", "optimizer.type=sgd", "--set", "loss.function=bce",
    ).succeeded()  # fmt: skip
    assert len(result.scores) == 2
    assert "16x16x1" in result.out
    assert "SGD" in result.out


def test_mistake_in_set_is_a_config_error(worker: Worker) -> None:
    assert "data.bach_size: unknown key" in worker("--set", "data.bach_size=3").error()
    assert "expected KEY=VALUE" in worker("--set", "batch").error()


def test_capabilities_are_one_json_line(capsys) -> None:
    assert main(["--capabilities"]) == 0
    line = capsys.readouterr().out
    assert json.loads(line) == {
        "engine": f"rml-optimize rmldnn {__version__}",
        "capabilities": [*EXTENSIONS, "--serve", "--targets"],
    }


def test_written_network_is_read_again_and_scores_alike(worker: Worker, tmp_path: Path) -> None:
    plain = worker().succeeded()
    arguments = ["--write-network", "unet:width=2,depth=1", "--input", "32,32,1"]
    assert main([*arguments, "-o", str(tmp_path / "my net.json")]) == 0
    assert worker(layers="my net.json").succeeded().losses == plain.losses


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--write-network", "unet", "-o", "net.json"], "--input H,W,C"),
        (["--write-network", "unet", "--input", "8,8"], "-o FILE"),
        (["--write-network", "unet", "--input", "8,8", "-o", "n.json"], "such as 256,256,3"),
        (["--write-network", "unett", "--input", "8,8,1", "-o", "n.json"], "unett"),
    ],
)
def test_mistake_in_write_network_is_one_line(arguments, word, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert word in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_export_gives_keras_the_same_output(worker: Worker, discs: Path, monkeypatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("another test has loaded Keras with another back end")
    arguments = ["--write-network", "unet:width=2,depth=1", "--input", "32,32,1", "-o", "net.json"]
    result = worker(checkpoints={"save": "ck"}, num_epochs=3, data__test_output_path="p")
    assert main(arguments) == 0
    exported = worker(
        "--export", "model.h5", layers="net.json", checkpoints={"load": "ck/model_checkpoint_3.pt"}
    ).succeeded()
    model = keras.models.model_from_json((result.folder / "net.json").read_text())
    model.load_weights(exported.folder / "model.h5")
    with h5py.File(result.folder / "p/output_1.h5") as file:
        names = sorted(file)
        ours = np.stack([file[name][0] for name in names])
    images = [cv2.imread(str(discs / "test/inputs" / name), 0) for name in names]
    theirs = model.predict(np.stack(images)[..., None].astype(np.float32) / 255, verbose=0)
    np.testing.assert_allclose(ours, theirs[..., 0], atol=1e-5)


def test_export_gives_onnx_runtime_the_same_output(worker: Worker, discs: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    arguments = ["--write-network", "unet:width=2,depth=1", "--input", "32,32,1", "-o", "net.json"]
    result = worker(checkpoints={"save": "ck"}, data__test_output_path="p")
    assert main(arguments) == 0
    exported = worker(
        "--export",
        "model.onnx",
        layers="net.json",
        checkpoints={"load": "ck/model_checkpoint_1.pt"},
    ).succeeded()
    session = runtime.InferenceSession(exported.folder / "model.onnx")
    with h5py.File(result.folder / "p/output_1.h5") as file:
        names = sorted(file)
        ours = np.stack([file[name][()] for name in names])
    images = [cv2.imread(str(discs / "test/inputs" / name), 0) for name in names]
    inputs = np.stack(images)[:, None].astype(np.float32) / 255
    (theirs,) = session.run(None, {session.get_inputs()[0].name: inputs})
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_export_needs_a_network_in_a_file_and_a_suffix(worker: Worker) -> None:
    assert ".h5" in worker("--export", "model.pt").error()


@pytest.mark.parametrize("outfile", ["results/out.txt", None])
def test_debug_writes_the_networks_graph(worker: Worker, outfile: str | None) -> None:
    result = worker(debug=True, debug_interval=3, outfile=outfile).succeeded()
    path = "results/network.dot" if outfile else "network.dot"
    assert (result.folder / path).read_text().startswith("digraph ")
    assert path in result.out
