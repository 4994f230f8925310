"""What is searched does not change what is scored."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from support import Run, one_error, optimize, write_discs

SIZES = "data.transforms[0].resize=[16,16],[32,32]"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images larger than the network's input, so that sizes differ."""
    return write_discs(tmp_path / "data", size=61)


def test_trials_of_different_sizes_are_scored_on_one_grid(
    run: Run, data: Path, tmp_path: Path
) -> None:
    result = run(
        "rml-optimize", *optimize(data, "--num-trials", 4, "--search", SIZES, "--seed", 1),
        "--num-epochs", 2, "--launcher", "local",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "so all trials are scored at the images' own size" in result.stdout
    targets = {
        sum((cv2.imread(str(path), 0) > 0).sum() for path in (data / "test/targets").iterdir())
    }
    sizes = set()
    for folder in tmp_path.glob("runs/*/trial_*/attempt_1"):
        config = json.loads((folder / "config.json").read_text())["neural_network"]
        sizes.add(tuple(config["data"]["transforms"][0]["resize"]))
        lines = (folder / "per_image.csv").read_text().splitlines()
        column = lines[0].split(",").index("foreground_target")
        targets.add(sum(int(line.split(",")[column]) for line in lines[1:]))
    assert len(sizes) == 2
    assert len(targets) == 1  # every trial is compared with every pixel of the masks


@pytest.mark.parametrize(
    ("search", "reason"),
    [
        ("data.mask_threshold=100,200", "what of the masks is foreground"),
        ("metrics.include_background=true,false", "how the score is computed"),
        ("loss.ignore_index=0,1", "which pixels count"),
    ],
)
def test_search_of_what_a_score_is_is_refused(
    run: Run, data: Path, search: str, reason: str
) -> None:
    result = run("rml-optimize", *optimize(data, "--search", search, "--dry-run"))
    error = one_error(result)
    assert reason in error
    assert "fix it with --set" in error


def test_worker_that_cannot_score_at_one_size_is_refused(
    run: Run, data: Path, tmp_path: Path, standin: str
) -> None:
    result = run("rml-optimize", *optimize(data, "--search", SIZES, "--worker", standin))
    assert "cannot score trials at the images' own size" in one_error(result)
    fixed = ("--set", "metrics.at_size=network", "--dry-run")
    error = one_error(run("rml-optimize", *optimize(data, "--search", SIZES, *fixed)))
    assert "see different pixels of the masks" in error


def test_networks_of_one_and_of_several_channels_are_not_compared(
    run: Run, data: Path, tmp_path: Path
) -> None:
    two = tmp_path / "two.json"
    made = run(
        "rmldnn", "--write-network", "unet:width=4,depth=2", "--input", "32,32,1",
        "--classes", 2, "-o", two,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    arguments = [text for text in optimize(data, "--dry-run") if text not in ("--layers",)]
    arguments.remove("unet:width=4,depth=2")
    search = "layers=two.json,fcn"
    error = one_error(run("rml-optimize", *arguments, "--search", search))
    assert "could not be compared" in error
