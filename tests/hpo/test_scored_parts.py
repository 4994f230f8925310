"""A search is scored on parts that hold something to score, and says what they lack."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support import SMALL, Run, one_error, standin_settings, write_discs

from trainer.metrics.counts import SegmentationCounts

VALIDATION = ("--select-on", "validation", "--dry-run")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_discs(tmp_path / "data")


def masks(data: Path, part: str) -> list[Path]:
    return sorted((data / part / "targets").iterdir())


def paint(path: Path, values: np.ndarray) -> None:
    cv2.imwrite(str(path), values.astype(np.uint8))


@pytest.mark.parametrize("select_on", ["test", "validation"])
def test_test_part_without_foreground_is_refused(run: Run, data: Path, select_on: str) -> None:
    for path in masks(data, "test"):
        paint(path, np.zeros((32, 32)))
    result = run("rml-optimize", *SMALL, "--select-on", select_on, "--dry-run")
    assert "test images have no foreground" in one_error(result)


def test_part_of_ignored_pixels_alone_is_refused(run: Run, data: Path) -> None:
    for part in ("train", "test"):
        for path in masks(data, part):
            mask = (cv2.imread(str(path), 0) > 0).astype(np.uint8)
            paint(path, mask if part == "train" else np.full((32, 32), 2))
    result = run("rml-optimize", *SMALL, *VALIDATION, "--set", "loss.ignore_index=2")
    assert "test images have no foreground" in one_error(result)


def test_foreground_of_few_images_is_in_the_validation_part(run: Run, data: Path) -> None:
    for path in masks(data, "train")[:-2]:
        paint(path, np.zeros((32, 32)))
    result = run("rml-optimize", *SMALL, *VALIDATION)
    assert result.returncode == 0, result.stdout + result.stderr
    (split,) = (data.parent / "runs").glob("*/split_*")
    for part in ("train", "validation"):
        assert any(cv2.imread(str(path), 0).any() for path in masks(split, part))


def test_validation_part_without_foreground_is_refused(run: Run, data: Path) -> None:
    for path in masks(data, "train")[1:]:  # the first one is not in the validation part
        paint(path, np.zeros((32, 32)))
    error = one_error(run("rml-optimize", *SMALL, *VALIDATION))
    assert "validation images have no foreground" in error


def test_class_that_a_part_lacks_is_named(run: Run, data: Path) -> None:
    for part in ("train", "test"):
        for path in masks(data, part):
            mask = (cv2.imread(str(path), 0) > 0).astype(np.uint8)
            mask[:3, :3] = 2 if part == "train" else 0
            paint(path, mask)
    result = run(
        "rml-optimize", *SMALL, *VALIDATION, "--loss", "NLL,Dice",
        "--set", 'data.class_names=["tissue","cyst","lesion"]',
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "warning: no mask of the test images shows lesion (mask value 2)" in result.stdout
    assert "validation images shows" not in result.stdout


def shares_of(data: Path, part: str) -> str:
    """Return the Dice of everything as foreground."""
    share = np.mean([np.mean(cv2.imread(str(path), 0) > 0) for path in masks(data, part)])
    return f"{2 * share / (1 + share):.4f}"


def test_best_trial_that_is_one_answer_everywhere_is_called_so(
    run: Run, data: Path, tmp_path: Path
) -> None:
    shares = [np.mean(cv2.imread(str(path), 0) > 0) for path in masks(data, "test")]
    share = float(np.mean(shares))
    trivial = 2 * share / (1 + share)
    background = 2 * (1 - share) / (2 - share)
    worker = standin_settings(tmp_path, {"curve": {"0": [trivial] * 3, "1": [0.1] * 3}})
    command = ("rml-optimize", *SMALL, "--num-trials", 2, "--worker", worker, "--jobs", 1)
    result = run(*command)
    assert result.returncode == 0, result.stdout + result.stderr
    plan = " ".join(result.stdout.replace("|", " ").split())
    assert f"Dice if every pixel were foreground {trivial:.4f} (test images)" in plan
    assert f"every pixel were background 0.0000 as scored, {background:.4f} of the class" in plan
    claim = f"{trivial:.4f} is no better than the Dice if every pixel were foreground"
    assert f"{claim}: {trivial:.4f} on these masks" in result.stdout
    check = run("rml-data", "check", data).stdout
    assert f"Dice if every pixel were foreground: {shares_of(data, 'train')} (train), " in check
    assert f"(train), {trivial:.4f} (test)\n" in check
    worker = standin_settings(tmp_path, {"curve": {"0": [0.99] * 3, "1": [0.1] * 3}})
    better = run(*command[:-4], "--worker", worker, "--jobs", 1, "--study-name", "better")
    assert better.returncode == 0, better.stdout + better.stderr
    assert "no better than" not in better.stdout


def test_check_and_training_agree_on_what_one_answer_scores(run: Run, data: Path) -> None:
    found = json.loads(run("rml-data", "check", data, "--json").stdout)
    target = np.stack([cv2.imread(str(path), 0) > 0 for path in masks(data, "test")])
    everywhere = torch.ones(target.shape, dtype=torch.long)
    counts = SegmentationCounts(1, None)
    counts.update([str(i) for i in range(len(target))], everywhere, torch.tensor(target).long())
    assert found["trivial"]["test"]["foreground"] == pytest.approx(
        counts.scores().dice_dataset, abs=1e-6
    )


def recode(data: Path, background: int, foreground: int) -> None:
    for part in ("train", "test"):
        for path in masks(data, part):
            is_foreground = cv2.imread(str(path), 0) > 0
            paint(path, np.where(is_foreground, foreground, background))


def test_masks_without_0_are_refused_with_the_setting_that_mends_it(run: Run, data: Path) -> None:
    recode(data, 1, 2)
    error = one_error(run("rml-optimize", *SMALL, *VALIDATION))
    assert "data.mask_values=[1, 2]" in error
    mended = run("rml-optimize", *SMALL, *VALIDATION, "--set", "data.mask_values=[1,2]")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    check = run("rml-data", "check", data)
    assert "PROBLEM: mask values are 1, 2 and no pixel is 0" in check.stdout


def test_class_ids_that_never_occur_are_warned_of(run: Run, data: Path) -> None:
    recode(data, 0, 2)
    result = run("rml-optimize", *SMALL, *VALIDATION, "--loss", "NLL,Dice")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "warning: no mask has the class id 1" in result.stdout
    assert "data.mask_values=[0, 2]" in result.stdout
    mended = run("rml-optimize", *SMALL, *VALIDATION, "--set", "data.mask_values=[0,2]")
    assert "no mask has" not in mended.stdout
    assert "no mask has the class id 1" in run("rml-data", "check", data).stdout


def test_masks_of_mostly_foreground_are_asked_about(run: Run, data: Path) -> None:
    recode(data, 255, 0)
    result = run("rml-optimize", *SMALL, *VALIDATION)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "are the masks inverted? If so, set data.mask_values=[255, 0]" in result.stdout
    turned = run("rml-optimize", *SMALL, *VALIDATION, "--set", "data.mask_values=[255,0]")
    assert turned.returncode == 0, turned.stdout + turned.stderr
    assert "inverted" not in turned.stdout
    assert "are the masks inverted?" in run("rml-data", "check", data).stdout
