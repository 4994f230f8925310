"""`rml-study confirm`: the best configurations again, with several seeds, on unseen images."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import BIN, STANDIN, Run, clean_environment, one_error, standin_settings, wait_for

from hpo.study.paper import spread
from hpo.wording import latex

LOCAL = ("--launcher", "local", "--no-gpu")
STANDIN_SEARCH = (
    "--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu", "--num-epochs", "3",
    "--jobs", "1", "--num-trials", "3", "--study-name", "s", "--pruner", "none",
)  # fmt: skip


def counts(path: Path) -> np.ndarray:
    """Return intersection, predicted, target of each image of a `per_image.csv`."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    keys = ("foreground_intersection", "foreground_predicted", "foreground_target")
    return np.array([[float(row[key]) for key in keys] for row in rows])


def test_table_is_of_new_trainings_scored_on_the_test_images(
    run: Run, trained: Path, discs: Path
) -> None:
    result = run(
        "rml-study", "confirm", "--top", 1, "--seeds", 2, "--data", discs, *LOCAL, cwd=trained
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (trial,) = (trained / "runs/s/confirm").iterdir()
    folders = sorted(trial.iterdir())
    entries = [json.loads((folder / "result.json").read_text()) for folder in folders]
    tables = [counts(folder / "test/per_image.csv") for folder in folders]
    dataset = [2 * t[:, 0].sum() / t[:, 1:].sum() for t in tables]
    per_image = [np.mean(2 * t[:, 0] / t[:, 1:].sum(1)) for t in tables]
    np.testing.assert_allclose([entry["dice_dataset"] for entry in entries], dataset, atol=1e-8)
    for figures in (dataset, per_image):
        text = f"{np.mean(figures):.4f} ± {np.std(figures, ddof=1):.4f}"
        assert text in (trained / "confirm.md").read_text()
        assert text.replace("±", r"$\pm$") in (trained / "confirm.tex").read_text()
        assert text in result.stdout
    draws = np.random.default_rng(5).integers(5, size=(4000, 5))
    means = np.mean([2 * t[draws, 0].sum(1) / t[draws, 1:].sum((1, 2)) for t in tables], axis=0)
    shown = next(cell for cell in result.stdout.split("|") if " .. " in cell)
    low, high = (float(part) for part in shown.split(" .. "))
    np.testing.assert_allclose([low, high], np.quantile(means, [0.025, 0.975]), atol=0.03)

    configs = [json.loads((f / "train/config.json").read_text()) for f in folders]
    seeds = {config["neural_network"]["seed"] for config in configs}
    number = int(trial.name.removeprefix("trial_"))
    first = json.loads((trained / f"runs/s/trial_{number:05d}/attempt_1/config.json").read_text())
    assert len(seeds | {first["neural_network"]["seed"]}) == 3
    for config in configs:  # else as the trial was, on the study's own split
        assert "split_" in config["neural_network"]["data"]["test_input_path"]
        config["neural_network"]["seed"] = first["neural_network"]["seed"]
        for section in ("optimizer", "loss", "num_epochs"):
            assert config["neural_network"][section] == first["neural_network"][section]
    tested = json.loads((folders[0] / "test/config.json").read_text())["neural_network"]
    assert tested["data"]["test_input_path"] == str(discs / "test/inputs")
    assert not list(trial.rglob("*.pt"))


@pytest.fixture
def standin_study(run: Run, tmp_path: Path, discs: Path) -> tuple[Path, str]:
    """A study of the stand-in that was compared on a validation part, and a slow stand-in."""
    worker = f"{sys.executable} {STANDIN}"
    folder = tmp_path / "study"
    folder.mkdir()
    made = run(
        "rml-optimize", *STANDIN_SEARCH, "--data", discs, "--worker", worker,
        "--select-on", "validation", cwd=folder,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    return folder, standin_settings(folder, {"epoch_s": 0.1})


def test_killed_confirmation_goes_on_and_repeats_nothing(
    run: Run, standin_study: tuple[Path, str], discs: Path
) -> None:
    folder, worker = standin_study
    command = (
        "confirm", "--top", "2", "--seeds", "3", "--data", str(discs), "--no-gpu", "--worker",
        worker, "--jobs", "2",
    )  # fmt: skip
    process = subprocess.Popen(
        [str(BIN / "rml-study"), *command], cwd=folder, env=clean_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    results = folder / "runs/s/confirm"
    wait_for(lambda: len(list(results.rglob("result.json"))) >= 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in results.rglob("result.json")}
    assert 2 <= len(before) < 6
    result = run("rml-study", *command, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(before)} of 6 trainings are finished already" in result.stdout
    assert "; 6 of 6" in result.stdout
    assert len(list(results.rglob("result.json"))) == 6
    assert before == {path: path.stat().st_mtime_ns for path in before}
    rows = [line for line in (folder / "confirm.md").read_text().splitlines() if "±" in line]
    assert len(rows) == 3  # two configurations, and the note
    again = run("rml-study", *command, cwd=folder)
    assert "6 of 6 trainings are finished already" in again.stdout


def test_failed_training_is_named_and_left_out(
    run: Run, standin_study: tuple[Path, str], discs: Path
) -> None:
    folder, _ = standin_study
    worker = standin_settings(folder, {"end": {"-1": 3}})
    result = run(
        "rml-study", "confirm", "--top", 1, "--seeds", 2, "--data", discs, "--no-gpu",
        "--worker", worker, cwd=folder,
    )  # fmt: skip
    error = one_error(result, code=1)
    assert "seed 1: training ended with exit code 3" in error
    assert "the same command tries these again" in error


def test_studies_without_unseen_images_are_refused(
    run: Run, searched: Path, standin_study: tuple[Path, str], discs: Path, tmp_path: Path
) -> None:
    result = run("rml-study", "confirm", "--data", discs, "--no-gpu", cwd=searched)
    assert "selected on its test images" in one_error(result)
    folder, _ = standin_study
    shutil.copytree(discs / "train", tmp_path / "d/train")
    result = run("rml-study", "confirm", "--data", tmp_path / "d", "--no-gpu", cwd=folder)
    assert "has no test images" in one_error(result)
    shutil.copytree(discs / "train", tmp_path / "d/test")
    result = run("rml-study", "confirm", "--data", tmp_path / "d", "--no-gpu", cwd=folder)
    assert "not the images that the study was made with" in one_error(result)


SHORT_SEARCH = (
    "--layers", "unet:width=4,depth=2", "--resize", "32,32", "--num-epochs", "1", "--jobs", "1",
    "--num-trials", "1", "--study-name", "s", *LOCAL,
)  # fmt: skip


@pytest.mark.parametrize(
    ("select_on", "command"),
    [("validation", ("confirm", "--top", 1, "--seeds", 1)), ("test", ("replay", "--trial", 0))],
)
def test_linked_images_are_read_as_the_search_read_them(
    run: Run, tmp_path: Path, discs: Path, select_on: str, command: tuple[object, ...]
) -> None:
    for path in discs.rglob("*.png"):
        link = tmp_path / "links" / path.relative_to(discs)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    data = ("--data", tmp_path / "links")
    made = run(
        "rml-optimize", *SHORT_SEARCH, *data, "--select-on", select_on,
        "--set", "data.follow_symlinks=true", cwd=tmp_path,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    result = run("rml-study", *command, *data, *LOCAL, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_confirm_knows_the_mask_values_of_the_validation_folder(
    run: Run, tmp_path: Path, discs: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(discs, data)
    shutil.copytree(discs / "train", data / "val")
    for path in data.glob("*/targets/*"):
        with Image.open(path) as image:
            pixels = (np.asarray(image) > 0).astype(np.uint8)
        if path.is_relative_to(data / "val"):
            pixels[:8, :8] = 2  # a class that no other part has
        Image.fromarray(pixels).save(path)
    select = ("--data", data, "--select-on", "validation")
    made = run("rml-optimize", *SHORT_SEARCH, *select, "--loss", "Dice", cwd=tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    result = run(
        "rml-study", "confirm", "--top", 1, "--seeds", 1, "--data", data, *LOCAL, cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (tested,) = (tmp_path / "runs/s/confirm").glob("*/seed_1/test/config.json")
    settings = json.loads(tested.read_text())["neural_network"]["data"]
    assert settings["mask_values"] == [0, 1, 2]


def test_spread_and_escapes() -> None:
    assert spread([{"d": 0.5}], "d") == "0.5000"
    assert spread([{"d": 0.5}, {"d": 0.7}, {"d": None}], "d") == "0.6000 ± 0.1414"
    assert spread([{"d": None}], "d") == "–"
    assert latex(r"a_b & 95 % ± {x}\y") == r"a\_b \& 95 \% $\pm$ \{x\}\textbackslash{}y"
