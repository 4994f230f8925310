"""What a score is, is said: in the plan, in every config, and where a worker cannot do it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import cv2
import pytest
from support import Run, one_error, optimize, standin_settings, write_discs


@pytest.fixture
def organs(tmp_path: Path) -> Path:
    """Three classes: a disc and a corner."""
    root = write_discs(tmp_path / "data")
    for path in root.glob("*/targets/*"):
        mask = (cv2.imread(str(path), 0) > 0).astype("uint8")
        mask[:8, :8] = 2
        cv2.imwrite(str(path), mask)
    return root


def test_both_averages_are_given_and_the_config_says_which(
    run: Run, organs: Path, tmp_path: Path
) -> None:
    result = run(
        "rml-optimize", *optimize(organs, "--num-trials", 1, "--loss", "Dice,NLL"),
        "--select-on", "validation", "--launcher", "local",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "averaged over all classes, the background among them" in result.stdout
    trial, test = (
        json.loads((tmp_path / f"best_model/{name}.json").read_text())
        for name in ("trial", "test")
    )
    for scores in (trial, test):
        assert scores["dice_dataset"] == pytest.approx(scores["dice_with_background"], abs=1e-6)
        assert f"{scores['dice_without_background']:.4f} without it" in result.stdout
    config = json.loads((tmp_path / "best_model/config.json").read_text())["neural_network"]
    assert config["metrics"]["include_background"] is True
    assert config["data"]["mask_resize"] == "exact"
    # The images have the network's size here.
    assert test["dice_dataset_own_size"] == pytest.approx(test["dice_dataset"], abs=1e-6)
    assert "the same dice_dataset at the images' own size" in result.stdout


def test_settings_that_a_worker_drops_are_named_before_the_first_trial(
    run: Run, organs: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    run("rml-optimize", "--new-study", study, "--data", organs)
    text = (study / "study.toml").read_text()
    assert '"metrics.include_background" = true' in text
    (study / "study.toml").write_text(
        text.replace('include_background" = true', 'include_background" = false')
    )
    worker = standin_settings(tmp_path, {"capabilities": []})
    result = run(
        "rml-optimize", *optimize(organs, "--num-trials", 1, "--worker", worker, "--study", study)
    )
    said = result.stdout.index("warning: metrics.include_background=false changes the score")
    assert said < result.stdout.index("trial 0")
    assert 'warning: data.mask_resize="exact" changes the score' in result.stdout
    as_contract = run(
        "rml-optimize", *optimize(organs, "--num-trials", 1, "--worker", worker),
        "--loss", "NLL,Dice", "--study-name", "other", "--set", "data.mask_resize=opencv",
        "--set", "metrics.hd95=true",
    )  # fmt: skip
    assert as_contract.returncode == 0, as_contract.stdout + as_contract.stderr
    assert "changes the score" not in as_contract.stdout
    for key in ("data.mask_resize", "metrics.hd95"):
        assert f"--set {key}: this worker does not know it" in as_contract.stdout


def make_earlier(database: Path) -> None:
    """Take out of a study what was not recorded before there were rules of a version."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        for table, key in (
            ("study_user_attributes", "rml:identity"),
            ("trial_user_attributes", "rml:provenance"),
        ):
            where = f"FROM {table} WHERE key = '{key}'"
            ((text,),) = connection.execute(f"SELECT value_json {where}")
            value = json.loads(text)
            value.pop("scoring rules", None)
            if key == "rml:provenance":  # of the heads of files
                value["data"]["hash"] = value["data"]["hash"][:16]
            for section, name in (("metrics", "include_background"), ("data", "mask_resize")):
                value.get("config", {}).get(section, {}).pop(name, None)
            connection.execute(
                f"UPDATE {table} SET value_json = ? WHERE key = '{key}'", (json.dumps(value),)
            )


def test_study_of_earlier_rules_is_refused_in_one_line_and_keeps_its_split(
    run: Run, organs: Path, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {"capabilities": ["metrics", "data.mask_resize"]})
    command = (
        *optimize(organs, "--num-trials", 1, "--worker", worker, "--loss", "NLL,Dice"),
        "--select-on", "validation",
    )  # fmt: skip
    assert run("rml-optimize", *command).returncode == 0
    (split,) = tmp_path.glob("runs/*/split_*")
    before = sorted(path.stat().st_ino for path in split.rglob("*.png"))
    make_earlier(tmp_path / "rml_optimize.db")
    error = one_error(run("rml-optimize", *command))
    assert len(error.splitlines()) == 1
    assert "was scored by other rules (version 1, and this program's are version 2)" in error
    assert "--study-name" in error
    assert before == sorted(path.stat().st_ino for path in split.rglob("*.png"))
    replayed = run("rml-study", "replay", "--trial", 0, "--worker", worker, "--no-gpu")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    (path,) = tmp_path.glob("runs/*/replay_of_trial_*/*/config.json")
    config = json.loads(path.read_text())["neural_network"]
    assert split.name in config["data"]["input_path"]
    assert config["data"]["mask_resize"] == "opencv"  # as that trial had it
    assert config["metrics"]["include_background"] is False


def test_a_search_that_rotates_says_where_to_in_every_config(
    run: Run, organs: Path, tmp_path: Path
) -> None:
    command = (*optimize(organs, "--worker", standin_settings(tmp_path, {})), "--loss", "NLL,Dice")
    for transforms, expected in (
        ('[{"resize":[32,32]}]', None),
        ('[{"resize":[32,32]},{"rotate":25}]', "clockwise"),
    ):
        result = run(
            "rml-optimize", *command, "--set", f"data.transforms={transforms}", "--dry-run"
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert ('"rotate_direction": "clockwise"' in result.stdout) is (expected is not None)


def test_dry_run_refuses_what_the_search_refuses(run: Run, organs: Path, tmp_path: Path) -> None:
    worker = standin_settings(tmp_path, {})
    command = (*optimize(organs, "--worker", worker, "--loss", "NLL,Dice"), "--num-trials", 1)
    for options in (("--dry-run",), (), ("--dry-run",)):
        result = run("rml-optimize", *command, *options)
        assert result.returncode == 0, result.stdout + result.stderr
    database = tmp_path / "rml_optimize.db"
    before = database.read_bytes()
    other = ("--set", "data.batch_size=3")
    planned = one_error(run("rml-optimize", *command, *other, "--dry-run"))
    assert "searches something else" in planned
    assert planned == one_error(run("rml-optimize", *command, *other))
    assert database.read_bytes() == before
    free = run("rml-optimize", *command, *other, "--dry-run", "--study-name", "new")
    assert free.returncode == 0, free.stdout + free.stderr


def test_selecting_on_test_is_warned_of_before_the_first_trial(
    run: Run, organs: Path, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {})
    command = (*optimize(organs, "--worker", worker, "--loss", "NLL,Dice"), "--num-trials", 1)
    text = run("rml-optimize", *command).stdout
    assert text.index("warning: trials are compared on the test images") < text.index("trial 0")
    validation = run("rml-optimize", *command, "--select-on", "validation", "--dry-run").stdout
    assert "compared on the test images" not in validation
