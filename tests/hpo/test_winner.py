"""Which model is in `best_model/`, whatever happens until its trial is told."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import (
    Run,
    clean_environment,
    list_acc,
    names,
    optimize,
    require,
    standin_settings,
    start,
    states,
)

from hpo.study.cli import main

DYING = Path(__file__).with_name("dying_driver.py")
HONEST = ("--select-on", "validation", "--jobs", 1)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of one megabyte and yield the file that fills it."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        require("mount", "only root may mount a small disk")
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(4096))
        yield filler
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/*/trial_*/attempt_*/temp_model/*"))


def stored(folder: Path) -> dict[str, object]:
    entry: dict[str, object] = json.loads((folder / "best_model/trial.json").read_text())
    return entry


def test_winner_that_cannot_be_stored_keeps_score_and_checkpoint(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    curves = {"0": [0.1, 0.2, 0.3], "1": [0.7, 0.8, 0.75], "2": [0.1, 0.5, 0.4]}
    worker = standin_settings(tmp_path, {"curve": curves})
    with small_disk(tmp_path / "disk") as filler:
        (tmp_path / "best_model").symlink_to(tmp_path / "disk/models")
        result = run(
            "rml-optimize", *optimize(discs, "--num-trials", 3, "--worker", worker, *HONEST)
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert set(states(tmp_path).values()) <= {"COMPLETE", "PRUNED"}
        assert max(entry["max_acc"] for entry in list_acc(tmp_path)) == 0.8
        assert "No space left on device" in result.stdout
        assert "test images" not in result.stdout.split("best trial:")[1]
        (kept,) = checkpoints(tmp_path)
        assert kept.read_text() == "1 2"
        assert run("rml-study", "clean", "--yes").returncode == 0
        assert kept.exists()
        filler.unlink()
        export = run("rml-study", "export")
        assert export.returncode == 0, export.stdout + export.stderr
        assert (tmp_path / "best_model/best_model_file.pt").read_text() == "1 2"
        assert stored(tmp_path)["trial"] == 1
        again = run(
            "rml-optimize", *optimize(discs, "--num-trials", 3, "--worker", worker, *HONEST)
        )
        assert "used for this only" in again.stdout
        assert not checkpoints(tmp_path)


def test_winner_that_was_not_stored_moves_with_the_output_folder(
    discs: Path, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {"curve": {"0": [0.1, 0.2, 0.1]}})
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    (before / "best_model").symlink_to(tmp_path / "unplugged/models")

    def search(folder: Path) -> str:
        arguments = optimize(discs, "--num-trials", 1, "--worker", worker, *HONEST)
        process = start(folder, *arguments)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output

    assert "cannot be stored" in search(before)
    before.rename(after)
    assert "cannot be stored" in search(after)
    assert len(checkpoints(after)) == 1
    (after / "best_model").unlink()
    assert main(["export", "--output-dir", str(after)]) == 0
    assert (after / "best_model/best_model_file.pt").read_text() == "0 2"


@pytest.mark.parametrize("moment", ["before told", "after told"])
def test_model_is_of_the_attempt_that_was_told(
    discs: Path, run: Run, tmp_path: Path, moment: str
) -> None:
    worker = standin_settings(tmp_path, {"curve": {"0": [0.9, 0.95, 0.9]}})
    arguments = optimize(
        discs, "--num-trials", 3, "--worker", worker, "--lease", 1, *HONEST, "--artifacts", "shelf"
    )
    killed = subprocess.run(
        [sys.executable, str(DYING), moment, str(tmp_path / "died"), *arguments],
        cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    # The trial runs again, if it was not told, and scores lower this time.
    curves = {"0": [0.1, 0.2, 0.1], "1": [0.3, 0.4, 0.6], "2": [0.1, 0.5, 0.1]}
    standin_settings(tmp_path, {"curve": curves})
    result = run("rml-optimize", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    number, score, model = (1, 0.6, "1 3") if moment == "before told" else (0, 0.95, "0 2")
    assert f"best trial: number {number}" in result.stdout
    assert "but best_model/" not in result.stdout
    assert stored(tmp_path)["trial"] == number
    assert stored(tmp_path)["dice_dataset"] == score
    assert (tmp_path / "best_model/best_model_file.pt").read_text() == model
    assert json.loads((tmp_path / "best_model/test.json").read_text())["trial"] == number
    assert not checkpoints(tmp_path)
    assert names(tmp_path.glob(".best_model*")) == [".best_model.lock"]
    assert len(list((tmp_path / "shelf").glob("*.tar"))) == 1
    # Another node fetches it from the shelf.
    shutil.move(tmp_path / "best_model", tmp_path / "gone")
    export = run("rml-study", "export", "--artifacts", "shelf")
    assert export.returncode == 0, export.stdout + export.stderr
    assert (tmp_path / "best_model/best_model_file.pt").read_text() == model


def test_killed_drivers_leave_the_right_model_and_no_checkpoints(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    rng = random.Random(0)
    curves = {str(number): [rng.random() for _ in range(3)] for number in range(12)}
    worker = standin_settings(tmp_path, {"curve": curves, "epoch_s": 0.05})
    arguments = optimize(
        discs, "--num-trials", 12, "--worker", worker, "--lease", 1, "--jobs", 2,
        "--pruner", "none", "--max-retries", 99, "--artifacts", "shelf",
    )  # fmt: skip
    for _ in range(4):
        process = start(tmp_path, *arguments)
        assert process.stdout is not None
        for line in process.stdout:  # until a trial has started, then at any moment
            if " started: " in line:
                break
        time.sleep(rng.uniform(0.0, 1.0))
        process.kill()
        process.communicate()
    result = run("rml-optimize", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert list(states(tmp_path).values()) == ["COMPLETE"] * 12
    best = max(curves, key=lambda number: max(curves[number]))
    assert stored(tmp_path)["trial"] == int(best)
    assert stored(tmp_path)["dice_dataset"] == pytest.approx(max(curves[best]))
    epoch = 1 + curves[best].index(max(curves[best]))
    assert (tmp_path / "best_model/best_model_file.pt").read_text() == f"{best} {epoch}"
    assert not checkpoints(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    assert len(list((tmp_path / "shelf").glob("*.tar"))) == 1
