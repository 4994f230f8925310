"""A network of the user's own in a search: MONAI's of docs/plugins.md beside a built-in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plugin_package import write_broken
from support import Run, list_acc, one_error

LAYERS = "monai-unet:width=4"
SEARCH = (
    *("--resize", "32,32", "--no-gpu", "--num-epochs", "2", "--jobs", "1", "--launcher", "local"),
)


def test_own_network_is_searched_beside_a_built_in_one(
    discs: Path, run: Run, tmp_path: Path, documented_plugins: Path
) -> None:
    site = {"PYTHONPATH": str(documented_plugins)}
    result = run(
        "rml-optimize", *SEARCH, "--data", discs, "--num-trials", 4, "--sampler", "random",
        "--search", f'layers="unet:width=4,depth=2",{LAYERS}', "--pruner", "none",
        "--optimizers", "adam", **site,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    used = {entry["params"]["layers"] for entry in list_acc(tmp_path)}  # type: ignore[index]
    assert used == {"unet:width=4,depth=2", LAYERS}
    stored = json.loads((tmp_path / "best_model/trial.json").read_text())
    # The recorded score comes out again from rmldnn alone, whichever network won.
    again = run("rmldnn", f"--config={tmp_path / 'best_model/config.json'}", **site)
    assert again.returncode == 0, again.stdout + again.stderr
    dice = float((tmp_path / "out_test.txt").read_text().split()[3])
    assert dice == pytest.approx(stored["dice_dataset"], abs=1e-6)


def test_own_network_alone_is_stored_with_its_plugins_name(
    discs: Path, run: Run, tmp_path: Path, documented_plugins: Path
) -> None:
    site = {"PYTHONPATH": str(documented_plugins)}
    command = (
        "rml-optimize", *SEARCH, "--data", discs, "--num-trials", 1, "--layers", LAYERS,
    )  # fmt: skip
    result = run(*command, **site)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{LAYERS}: " in result.stdout
    network = json.loads((tmp_path / "best_model/layers.json").read_text())
    assert network == {
        "network_plugin": "monai-unet", "options": {"width": 4}, "input_shape": [32, 32, 1],
        "num_outputs": 1, "package": "my-package",
    }  # fmt: skip
    drawn = ("--predict", "best_model", "--images", discs / "test/inputs", "--out", "drawn")
    assert run("rmldnn", *drawn, **site).returncode == 0
    assert len(list((tmp_path / "drawn/masks").iterdir())) == 5
    error = one_error(run("rmldnn", *drawn))
    assert "plug-in 'monai-unet' (rml_optimize.networks), which is not installed here" in error
    # another call of the plug-in is another network: no trial of this study
    other = [f"{LAYERS[:-1]}8" if word == LAYERS else word for word in command]
    assert "layers_" in one_error(run(*other, **site))


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ("monai-unett", "no built-in network; did you mean 'monai-unet'?"),
        ("monai-unet:widht=4", "there is no option 'widht'; did you mean 'width'?"),
        ("crashes", "crashes: its code ended its process (the package has no licence here)"),
    ],
)
def test_network_that_cannot_be_built_is_refused_before_the_first_trial(
    discs: Path, run: Run, tmp_path: Path, documented_plugins: Path, layers: str, said: str
) -> None:
    code = """
def net(input_shape, num_outputs):
    import sys
    sys.exit("the package has no licence here")
"""
    entry_points = "[rml_optimize.networks]\ncrashes = ending:net\n"
    write_broken(tmp_path / "site", "ending", entry_points, code)
    site = f"{documented_plugins}:{tmp_path / 'site'}"
    command = ("--dry-run", *SEARCH, "--data", discs, "--layers", layers)
    assert said in one_error(run("rml-optimize", *command, PYTHONPATH=site))
    assert not list(tmp_path.glob("runs/*/trial_*"))


def test_worker_without_the_plugin_is_refused_before_the_first_trial(
    discs: Path, run: Run, tmp_path: Path, documented_plugins: Path, standin: str
) -> None:
    command = (*SEARCH, "--data", discs, "--layers", LAYERS, "--worker", standin)
    error = one_error(run("rml-optimize", *command, PYTHONPATH=str(documented_plugins)))
    assert "this worker does not have the plug-in 'monai-unet' (rml_optimize.networks)" in error
    assert "install package 'my-package' where rmldnn runs" in error
    assert not list(tmp_path.glob("runs/*/trial_*"))


def test_weights_of_a_package_fit_no_network_of_the_users(
    discs: Path, run: Run, documented_plugins: Path
) -> None:
    command = ("--dry-run", *SEARCH, "--data", discs, "--layers", LAYERS)
    start = ("--transfer-learning", "efficientnet-lite0")
    error = one_error(run("rml-optimize", *command, *start, PYTHONPATH=str(documented_plugins)))
    assert "fit efficientunet:lite=0 alone, not monai-unet:width=4" in error


def test_network_whose_code_prints_is_understood(discs: Path, run: Run, tmp_path: Path) -> None:
    code = """
import atexit
from torch import nn

def net(input_shape, num_outputs):
    atexit.register(print, "thank you for using this package")
    print("hello", end="")
    return nn.Conv2d(input_shape[-1], num_outputs, 1)
"""
    write_broken(
        tmp_path / "site", "talking", "[rml_optimize.networks]\ntalks = talking:net\n", code
    )
    command = ("--dry-run", *SEARCH, "--data", discs, "--layers", "talks")
    result = run("rml-optimize", *command, PYTHONPATH=str(tmp_path / "site"))
    assert result.returncode == 0, result.stdout + result.stderr
