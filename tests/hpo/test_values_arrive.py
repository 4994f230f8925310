"""The worker says which settings it uses; a trial whose worker uses others has failed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import Run, one_error, optimize, standin_settings, states

CURVES = {str(number): [0.1 + number / 100, 0.2, 0.3] for number in range(6)}
FIXED = (
    "--optimizers", "SGD", "--loss", "bce", "--set", "optimizer.momentum=0.9",
    "--search", "data.batch_size=4,8", "--jobs", "1", "--num-trials", "1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        (
            {"optimizer.momentum": 0.0},
            "optimizer.momentum: 0.9 was asked for, and the worker used",
        ),
        ({"optimizer.type": "Adam"}, 'optimizer.type: "SGD" was asked for, and the worker used'),
        ({"loss.function": ["BCE"] * 99}, ""),  # computed of it, for all we know
        ({"optimizer.momentum": True}, "and the worker used true"),
        ({"optimizer.momentum": "x" * 10_000}, "and the worker used"),
        ({"optimizer.momentum": {"a": [1]}}, "and the worker used"),
    ],
)
def test_trial_whose_worker_uses_another_value_fails_in_one_line(
    discs: Path, run: Run, tmp_path: Path, used: dict[str, object], expected: str
) -> None:
    worker = standin_settings(tmp_path, {"curve": CURVES, "used": {"all": used}})
    arguments = optimize(discs, *FIXED, "--worker", worker)
    result = run("rml-optimize", *arguments, "--max-failed", 1)
    if not expected:
        assert result.returncode == 0, result.stdout + result.stderr
        return
    message = one_error(result, code=1)
    assert expected in message
    assert len(message) < 500
    assert states(tmp_path) == {0: "FAIL"}


def test_worker_that_uses_what_was_asked_for_is_believed(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    used = {
        "optimizer.type": "sgd",  # engines spell names as they like
        "optimizer.momentum": 0.8999999761581421,  # a float32
        "loss.function": "BCE",
        "optimizer.nesterov": True,  # was not asked for
        "unknown": [1],
        "data.transforms[0].resize": [32, 32],
    }
    worker = standin_settings(tmp_path, {"curve": CURVES, "used": {"all": used}})
    result = run("rml-optimize", *optimize(discs, *FIXED, "--worker", worker))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "text",
    ['{"used": 5}\n', '{"used": {"optimizer.momentum": null}}\n', '{"used"', "[" * 70_000 + "\n"],
)
def test_worker_that_says_nothing_readable_is_taken_as_one_that_says_nothing(
    discs: Path, run: Run, tmp_path: Path, text: str
) -> None:
    worker = standin_settings(tmp_path, {"curve": CURVES, "write": {"metrics.jsonl": text}})
    result = run("rml-optimize", *optimize(discs, *FIXED, "--worker", worker))
    assert result.returncode == 0, result.stdout + result.stderr


def test_same_curve_of_other_values_is_warned_of_once(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    same = {str(number): [0.1, 0.2, 0.3] for number in range(5)}
    worker = standin_settings(tmp_path, {"curve": same})
    arguments = optimize(discs, "--num-trials", 5, "--jobs", 1, "--worker", worker)
    result = run("rml-optimize", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("seems to have no effect on the training") == 1, result.stdout
    assert "trials 0 and 1 have the same scores after each epoch" in " ".join(
        result.stdout.split()
    )


@pytest.mark.parametrize("curve", [[0.0, 0.0, 0.0], [0.0, 0.3, 0.3]])
def test_networks_that_see_nothing_or_one_class_everywhere_are_not_warned_of(
    discs: Path, run: Run, tmp_path: Path, curve: list[float]
) -> None:
    worker = standin_settings(tmp_path, {"curve": {str(n): curve for n in range(3)}})
    arguments = optimize(discs, "--num-trials", 3, "--jobs", 1, "--worker", worker)
    result = run("rml-optimize", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no effect" not in result.stdout


def test_our_worker_says_once_what_it_uses(discs: Path, run: Run, tmp_path: Path) -> None:
    arguments = optimize(
        discs, "--num-trials", 1, "--optimizers", "RMSprop", "--search",
        "optimizer.momentum=0.25,0.5", "--loss", "dice", "--set", "data.batch_size=6",
        "--objective", "dice_per_image", "--no-warm",
    )  # fmt: skip
    result = run("rml-optimize", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    (folder,) = (tmp_path / "runs").glob("*/trial_00000/attempt_1")
    entries = list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))
    asked = json.loads((folder / "config.json").read_text())["neural_network"]
    used = entries[0]["used"]
    assert used["optimizer.type"] == "RMSprop"
    assert used["optimizer.momentum"] == asked["optimizer"]["momentum"]
    assert used["optimizer.learning_rate"] == asked["optimizer"]["learning_rate"]
    assert used["optimizer.alpha"] == 0.99
    assert (used["loss.function"], used["data.batch_size"]) == ("Dice", 6)
    assert used["data.transforms[0].resize"] == [32, 32]
    assert [entry["epoch"] for entry in entries] == list(range(1, len(entries) + 1))
    assert all("used" not in entry for entry in entries[1:])
    assert asked["checkpoints"]["best_by"] == "dice_per_image"
    assert "Values used: " in (folder / "worker.log").read_text()
    model = json.loads((tmp_path / "best_model/trial.json").read_text())
    best = max(entries, key=lambda entry: entry["dice_per_image"])
    assert (model["score"], model["epoch"]) == (best["dice_per_image"], best["epoch"])
    assert model["dice_dataset"] == best["dice_dataset"]
