"""The package of docs/plugins.md, installed into a temporary folder, and broken ones."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from plugin_package import install, write_package
from support import Run, one_error, write_config, write_disc

from trainer.cli import main

BROKEN = """
[rml_optimize.losses]
no_module = nowhere_at_all:loss
no_function = broken_plugin:nothing
no_scalar = broken_plugin:no_scalar
raises = broken_plugin:raises
[rml_optimize.metrics]
no_number = broken_plugin:no_number
[rml_optimize.datasets]
no_samples = broken_plugin:no_samples
"""
BROKEN_CODE = """
def no_scalar(p, t): return p
def raises(p, t): raise KeyError("lesion")
def no_number(p, t): return None
def no_samples(source): return []
"""


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The documented package, installed by pip beside a broken one; a PYTHONPATH."""
    site = tmp_path_factory.mktemp("site")
    install(write_package(tmp_path_factory.mktemp("my_package")), site)
    info = site / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text(BROKEN)
    (site / "broken_plugin.py").write_text(BROKEN_CODE)
    return str(site)


def test_own_loss_and_metric_train_a_network(
    run: Run, tmp_path: Path, discs: Path, installed: str
) -> None:
    config = write_config(
        tmp_path / "config.json", discs, num_epochs=2, metrics={"plugins": ["digits_dice"]},
        loss={"function": "digits_dice", "source": "sigmoid"},
    )  # fmt: skip
    result = run("rmldnn", f"--config={config}", PYTHONPATH=installed)
    assert result.returncode == 0, result.stdout + result.stderr
    entry = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    with (tmp_path / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    # the documented Dice is the per-image Dice of the foreground, which we compute too
    own = [float(row["digits_dice"]) for row in rows]
    np.testing.assert_allclose(own, [float(row["foreground_dice"]) for row in rows])
    assert entry["plugins"]["digits_dice"] == pytest.approx(np.mean(own))
    lines = (tmp_path / "out_train.txt").read_text().splitlines()
    losses = [float(line.split()[3]) for line in lines]
    assert losses[-1] < losses[0] <= 1


def test_own_loss_is_searched(run: Run, discs: Path, installed: str) -> None:
    arguments = ("--dry-run", "--data", discs, "--resize", "32,32", "--loss", "dice,digits_dice")
    result = run("rml-optimize", *arguments, PYTHONPATH=installed)
    assert result.returncode == 0, result.stderr
    assert "digits_dice" in result.stdout
    error = one_error(run("rml-optimize", *arguments))
    assert "unknown name 'digits_dice'" in error


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            {"loss": {"function": "no_module"}},
            "'no_module' (nowhere_at_all:loss of package broken",
        ),
        ({"loss": {"function": "no_function"}}, "cannot be loaded: AttributeError"),
        ({"loss": {"function": "no_scalar"}}, "expected a scalar tensor, received (4, 1, 32, 32)"),
        ({"loss": {"function": "raises"}}, "'raises' (broken_plugin:raises of package broken)"),
        ({"loss": {"function": "digits_dice", "weight": [1, 2]}}, "loss.weight: has no effect"),
        ({"metrics": {"plugins": ["no_number"]}}, "'no_number' (broken_plugin:no_number"),
        ({"metrics": {"plugins": ["digits_dise"]}}, "did you mean 'digits_dice'"),
    ],
)
def test_broken_plugin_is_refused_by_name(
    tmp_path: Path, discs: Path, installed: str, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], section: dict[str, object], said: str,
) -> None:  # fmt: skip
    config = write_config(tmp_path / "config.json", discs, **section)
    monkeypatch.syspath_prepend(installed)
    monkeypatch.chdir(tmp_path)
    assert main([f"--config={config}"]) == 2
    (error,) = capfd.readouterr().err.splitlines()
    assert said in error


def test_model_predicts_where_its_plugins_are_not_installed(
    tmp_path: Path, discs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own = {"loss": {"function": "digits_dice"}, "metrics": {"plugins": ["digits_dice"]}}
    network = ("--write-network", "unet:width=4,depth=2", "--input", "32,32,1", "-o", "net.json")
    assert main(network) == 0
    config = write_config(tmp_path / "config.json", discs, layers="net.json", **own)
    images = str(discs / "test/inputs")
    assert main(["--predict", ".", "--images", images, "--out", "drawn"]) == 0
    assert len(list((tmp_path / "drawn/masks").iterdir())) == 5
    assert main([f"--config={config}"]) == 2
    errors = capfd.readouterr().err
    assert "unknown name 'digits_dice'" in errors
    assert "no metric is installed as a plug-in, so not 'digits_dice' either" in errors


def test_own_data_set_is_prepared(run: Run, tmp_path: Path, installed: str) -> None:
    rng = np.random.default_rng(0)
    for patient in range(5):
        for slice_ in range(2):
            write_disc(tmp_path / "raw", f"p{patient}_{slice_}.png", rng, 32)
    archive = tmp_path / "archive"
    archive.mkdir()
    for path in (tmp_path / "raw/inputs").iterdir():
        path.rename(archive / path.name)
        target = tmp_path / "raw/targets" / path.name
        target.rename(archive / f"{path.stem}.mask.png")
    cv2.imwrite(str(archive / "lost.png"), np.zeros((32, 32), np.uint8))
    command = ("prepare", "pairs", "--source", archive, "--out", "data", "--test-fraction", "0.2")
    result = run("rml-data", *command, PYTHONPATH=installed)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "8 training and 2 test images" in result.stdout
    assert "lost.png: image without a mask" in result.stdout
    parts = {
        part: {p.name.split("_")[0] for p in (tmp_path / "data" / part / "inputs").iterdir()}
        for part in ("train", "test")
    }
    assert not parts["train"] & parts["test"]
    assert "pairs" in run("rml-data", "prepare", "--help", PYTHONPATH=installed).stdout
    assert one_error_of_click(run("rml-data", *command))
    broken = ("prepare", "no_samples", "--source", archive, "--out", "other")
    error = one_error(run("rml-data", *broken, PYTHONPATH=installed))
    assert "'no_samples' (broken_plugin:no_samples of package broken): expected Found" in error


def one_error_of_click(result: subprocess.CompletedProcess[str]) -> bool:
    return result.returncode == 2 and "No such command 'pairs'" in result.stderr
