"""Networks of the user's own: MONAI's of docs/plugins.md in the worker, and broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from plugin_package import write_broken
from support import Run, one_error, write_config

from trainer.cli import main

BROKEN = """
[rml_optimize.networks]
no_module = nowhere_at_all:net
no_arguments = broken_networks:no_arguments
no_net = broken_networks:no_net
raises = broken_networks:raises
other_outputs = broken_networks:other_outputs
in_a_dictionary = broken_networks:in_a_dictionary
state = broken_networks:state
lazy = broken_networks:lazy
unet = broken_networks:raises
"""
BROKEN_CODE = """
import torch
from torch import nn


class Dictionary(nn.Conv2d):
    def forward(self, x): return {"out": super().forward(x)}


class State(nn.Conv2d):
    def get_extra_state(self): return "a text"
    def set_extra_state(self, state): pass


def no_arguments(): return None
def no_net(input_shape, num_outputs): return 3
def raises(input_shape, num_outputs): raise KeyError("lesion")
def other_outputs(input_shape, num_outputs): return nn.Conv2d(input_shape[-1], 2, 1)
def in_a_dictionary(input_shape, num_outputs): return Dictionary(input_shape[-1], num_outputs, 1)
def state(input_shape, num_outputs): return State(input_shape[-1], num_outputs, 1)
def lazy(input_shape, num_outputs): return nn.LazyConv2d(num_outputs, 1)
"""
WIDTH = 4
LAYERS = f"monai-unet:width={WIDTH}"
LAYERS_JSON = {
    "network_plugin": "monai-unet", "options": {"width": WIDTH}, "input_shape": [32, 32, 1],
    "num_outputs": 1, "package": None,
}  # fmt: skip
Worker = Callable[..., int]


@pytest.fixture
def worker(tmp_path: Path, documented_plugins: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """`rmldnn` in this process, where the documented and the broken package are installed."""
    write_broken(tmp_path / "site", "broken_networks", BROKEN, BROKEN_CODE)
    monkeypatch.syspath_prepend(str(documented_plugins))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main([str(argument) for argument in arguments])


def own_network(num_outputs: int = 1) -> torch.nn.Module:
    """MONAI's network without any of our code."""
    from monai.networks.nets import UNet

    return UNet(2, 1, num_outputs, (WIDTH, 2 * WIDTH, 4 * WIDTH), strides=(2, 2)).eval()


def load_own(folder: Path) -> torch.nn.Module:
    (path,) = folder.glob("*.pt")
    network = own_network()
    content = torch.load(path, weights_only=True)
    network.load_state_dict(content["state_dict"], strict=True)
    return network


def with_data(config: Path, **changes: object) -> Path:
    """Change the section `data` of a config."""
    content = json.loads(config.read_text())
    content["neural_network"]["data"] |= changes
    config.write_text(json.dumps(content))
    return config


def train(
    worker: Worker, discs: Path, folder: Path, data: dict[str, object] | None = None,
    **changes: object,
) -> None:  # fmt: skip
    folder.mkdir(exist_ok=True)
    checkpoints = {"save": str(folder / "kept"), "keep": "best"}
    config = write_config(
        folder / "config.json", discs,
        **{"layers": LAYERS, "outfile": str(folder / "out.txt"), "seed": 3,
           "checkpoints": checkpoints, **changes},
    )  # fmt: skip
    assert worker(f"--config={with_data(config, **data or {})}") == 0


def test_own_network_is_trained_stored_and_exported(
    worker: Worker, discs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(worker, discs, tmp_path / "a", num_epochs=4)
    log = capfd.readouterr().out
    count = sum(p.numel() for p in own_network().parameters())
    assert f"   Total parameters    : {count}\n" in log
    assert f"   Trainable parameters: {count}\n" in log
    assert "Num of operations" not in log  # it has no graph
    losses = [float(x.split()[3]) for x in (tmp_path / "a/out_train.txt").read_text().splitlines()]
    assert losses[-1] < losses[0]

    (kept,) = (tmp_path / "a/kept").glob("*.pt")
    written = ("--write-network", LAYERS, "--input", "32,32,1", "-o", "layers.json")
    assert worker(*written) == 0
    assert "has no Keras JSON" in capfd.readouterr().out
    config = write_config(
        tmp_path / "config.json", discs, layers="layers.json", checkpoints={"load": str(kept)}
    )
    images = discs / "test/inputs"
    assert worker("--predict", tmp_path, "--images", images, "--out", "drawn") == 0

    own, names = load_own(tmp_path / "a/kept"), sorted(path.name for path in images.iterdir())
    pixels = [cv2.imread(str(images / name), cv2.IMREAD_GRAYSCALE) for name in names]
    x = torch.tensor(np.stack(pixels)[:, None] / 255.0, dtype=torch.float32)
    with torch.no_grad():
        expected = own(x).sigmoid().numpy()
    with h5py.File(tmp_path / "drawn/output_1.h5") as file:
        predicted = np.stack([file[name][()] for name in names])
    np.testing.assert_allclose(predicted, expected, atol=1e-5)

    assert worker(f"--config={config}", "--export", "model.onnx") == 0
    import onnxruntime

    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"image": x.numpy()})
    np.testing.assert_allclose(output, expected, atol=1e-5)

    capfd.readouterr()
    for suffix in (".h5", ".weights.h5"):
        assert worker(f"--config={config}", "--export", f"model{suffix}") == 2
        (error,) = capfd.readouterr().err.splitlines()
        assert f"model{suffix}: network {LAYERS!r} is a plug-in's, written in PyTorch" in error
        assert not (tmp_path / f"model{suffix}").exists()


def test_own_network_goes_on_where_it_was(worker: Worker, discs: Path, tmp_path: Path) -> None:
    def kept(folder: str) -> dict[str, object]:
        return {"save": str(tmp_path / folder / "kept"), "resume": True}

    train(worker, discs, tmp_path / "whole", num_epochs=4, checkpoints=kept("whole"))
    train(worker, discs, tmp_path / "parts", num_epochs=2, checkpoints=kept("parts"))
    train(worker, discs, tmp_path / "parts", num_epochs=4, checkpoints=kept("parts"))

    def curve(folder: str) -> list[str]:
        lines = (tmp_path / folder / "out_test.txt").read_text().splitlines()
        return [" ".join(line.split()[2:]) for line in lines]

    assert len(curve("parts")) == 4
    assert curve("parts") == curve("whole")


def test_number_of_outputs_comes_from_the_masks(
    worker: Worker, discs: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for path in (discs / part / "targets").iterdir():
            mask = rng.integers(0, 3, (32, 32)).astype(np.uint8)
            cv2.imwrite(str(tmp_path / part / path.name), mask)
    data: dict[str, object] = {
        "target_path": str(tmp_path / "train"),
        "test_target_path": str(tmp_path / "test"),
    }
    train(worker, discs, tmp_path / "a", data=data, loss={"function": "NLL"})
    (path,) = (tmp_path / "a/kept").glob("*.pt")
    state = torch.load(path, weights_only=True)["state_dict"]
    own_network(num_outputs=3).load_state_dict(state, strict=True)


def test_weights_of_an_own_module_are_loaded(
    worker: Worker, discs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = own_network()
    torch.save(network.state_dict(), tmp_path / "start.pt")
    path = write_config(
        tmp_path / "config.json", discs, layers=LAYERS, checkpoints={"load": "start.pt"}
    )
    assert worker(f"--config={path}") == 0
    assert f"Loaded {len(network.state_dict())} parameters" in capfd.readouterr().out
    torch.save(own_network(2).state_dict(), tmp_path / "start.pt")
    assert worker(f"--config={path}") == 0
    assert "Skipping parameter model.2.conv.weight" in capfd.readouterr().out
    with h5py.File(tmp_path / "keras.h5", "w") as file:
        file.create_group("conv")
    config = write_config(
        tmp_path / "config.json", discs, layers=LAYERS, checkpoints={"load": "keras.h5"}
    )
    assert worker(f"--config={config}") == 2
    (error,) = capfd.readouterr().err.splitlines()
    assert "keras.h5: is Keras's, and the network a plug-in's" in error


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ("no_module", "'no_module' (nowhere_at_all:net of package broken_networks) cannot be l"),
        ("no_arguments", "expected a function of the input's shape and the number of outputs"),
        ("no_net", "expected a torch.nn.Module, received int"),
        ("raises", "plug-in 'raises' (broken_networks:raises of package broken_networks): KeyErr"),
        ("other_outputs", "expected an output of 1 channels, (1, 1, …) for one image, received ("),
        ("in_a_dictionary", "expected a tensor for an output, received dict"),
        ("state", "its state holds '_extra_state', a str"),
        ("monai-unet:widht=4", "there is no option 'widht'; did you mean 'width'?"),
        ("monai-unet:width", "expected options such as width=8"),
        ("monai-unett", "no such file, and no built-in network; did you mean 'monai-unet'?"),
        ({"network_plugin": "monai-unet"}, "layers: input_shape: expected [H, W, C]"),
        (
            {"network_plugin": "gone", "input_shape": [32, 32, 1], "num_outputs": 1,
             "package": "their-package"},
            "layers: the network is of plug-in 'gone' (rml_optimize.networks), which is not "
            "installed here; install package 'their-package' beside rmldnn",
        ),
    ],
)  # fmt: skip
def test_broken_network_is_refused_by_name(
    worker: Worker, discs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    layers: object, said: str,
) -> None:  # fmt: skip
    config = write_config(tmp_path / "config.json", discs, layers=layers)
    assert worker(f"--config={config}") == 2
    (error,) = capfd.readouterr().err.splitlines()
    assert said in error


@pytest.mark.parametrize("layers", ["lazy", "unet:width=4,depth=2"])
def test_lazy_network_is_trained_and_a_name_of_ours_is_ours(
    worker: Worker, discs: Path, tmp_path: Path, layers: str
) -> None:
    train(worker, discs, tmp_path / "a", layers=layers)


def test_size_that_an_own_network_does_not_take_is_named(
    worker: Worker, discs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "config.json", discs, layers=LAYERS)
    with_data(config, transforms=[{"resize": [33, 33]}])
    assert worker(f"--config={config}") == 2
    (error,) = capfd.readouterr().err.splitlines()
    assert "fails on an input of (N, 33, 33, 1): RuntimeError" in error


@pytest.mark.parametrize("width", [6, 5])
def test_own_network_takes_slices_of_several_sizes_or_names_the_one_it_does_not(
    worker: Worker, tmp_path: Path, capfd: pytest.CaptureFixture[str], width: int
) -> None:
    np.save(tmp_path / "volume.npy", np.random.default_rng(0).normal(size=(2, 8, width)))
    slicers = [{"sizes": [1, 8, 4], "name": "a"}, {"sizes": [2, 1, width], "name": "b"}]
    slicers[1]["padded_sizes"] = [4, 1, 2 * width if width == 6 else width]
    data = {"type": "numpy", "test_input_path": "volume.npy", "hdf5_outfile": "whole.h5"}
    config = {"layers": LAYERS_JSON, "data": data | {"slicers": slicers}}
    Path("config.json").write_text(json.dumps({"neural_network": config}))
    code, said = worker("--config=config.json"), capfd.readouterr()
    if width == 5:
        assert code == 2
        (error,) = said.err.splitlines()
        assert "fails on an input of (N, 4, 5, 1): RuntimeError" in error
        return
    assert code == 0
    with h5py.File("whole.h5") as file:
        assert {file[name].shape for name in file} == {(2, 8, 6, 1)}


def test_model_without_its_plugin_is_one_line(
    run: Run, worker: Worker, discs: Path, tmp_path: Path
) -> None:
    train(worker, discs, tmp_path / "a")
    (kept,) = (tmp_path / "a/kept").glob("*.pt")
    assert worker("--write-network", LAYERS, "--input", "32,32,1", "-o", "layers.json") == 0
    config = write_config(
        tmp_path / "config.json", discs, layers="layers.json", checkpoints={"load": str(kept)}
    )
    images = ("--images", discs / "test/inputs", "--out", "drawn")
    for command in (("--predict", ".", *images), (f"--config={config}", "--export", "a.onnx")):
        error = one_error(run("rmldnn", *command))
        assert "plug-in 'monai-unet' (rml_optimize.networks), which is not installed here" in error
        assert "install package 'my-package'" in error
