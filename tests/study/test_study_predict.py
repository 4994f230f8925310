"""`rml-study predict`: the study's best model on new images."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from support import STANDIN, Run, one_error, write_disc

LOCAL = ("--launcher", "local", "--no-gpu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images of a size that the network was not trained on."""
    rng = np.random.default_rng(3)
    for index in range(3):
        write_disc(tmp_path / "new ones", f"a {index}.png", rng, 48)
    return tmp_path / "new ones/inputs"


def test_predicts_what_rmldnn_predicts(run: Run, trained: Path, images: Path) -> None:
    result = run("rml-study", "predict", "--images", images, "--out", "p", *LOCAL, cwd=trained)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 masks and overlays in p" in result.stdout
    again = run("rmldnn", "--predict", "best_model", "--images", images, "--out", "q", cwd=trained)
    assert again.returncode == 0, again.stderr
    for name in ("a 0.png", "a 1.png", "a 2.png"):
        mask = cv2.imread(str(trained / "p/masks" / name), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (48, 48)
        same = cv2.imread(str(trained / "q/masks" / name), cv2.IMREAD_UNCHANGED)
        assert np.mean(mask != same) < 0.01
    with h5py.File(trained / "p/output_1.h5") as ours, h5py.File(trained / "q/output_1.h5") as its:
        for name in its:
            # another number of threads sums in another order
            np.testing.assert_allclose(ours[name][()], its[name][()], atol=1e-5)
    result = run("rml-study", "predict", "--images", images, "--out", "p", *LOCAL, cwd=trained)
    assert "name a new folder" in one_error(result)
    assert not list(trained.glob(".predict.*"))


def test_model_of_another_study_is_neither_used_nor_moved(
    run: Run, trained: Path, images: Path
) -> None:
    shutil.rmtree(trained / "best_model")
    (trained / "best_model").mkdir()
    (trained / "best_model/trial.json").write_text('{"study_id": "other", "trial": 0}')
    result = run("rml-study", "predict", "--images", images, "--out", "p", *LOCAL, cwd=trained)
    assert result.returncode == 0, result.stdout + result.stderr  # from where the trial put it
    assert [path.name for path in (trained / "best_model").iterdir()] == ["trial.json"]


def test_mistakes_are_one_line_and_leave_nothing(run: Run, trained: Path, images: Path) -> None:
    def predict(*arguments: object) -> str:
        command = ("predict", "--no-gpu", "--out", "p", *arguments)
        return one_error(run("rml-study", *command, cwd=trained))

    assert "no such folder: nowhere" in predict("--images", "nowhere")
    foreign = f"python {STANDIN}"
    assert "has no --predict" in predict("--images", images, "--worker", foreign)
    empty = trained / "empty"
    empty.mkdir()
    command = ("predict", *LOCAL, "--images", empty, "--out", "p")
    assert "no image in" in one_error(run("rml-study", *command, cwd=trained), code=1)
    assert not (trained / "p").exists()


@pytest.mark.docker
def test_container_predicts_the_same(
    run: Run, trained: Path, images: Path, worker_image: str
) -> None:
    local = run("rml-study", "predict", "--images", images, "--out", "p", *LOCAL, cwd=trained)
    assert local.returncode == 0, local.stderr
    result = run(
        "rml-study", "predict", "--images", images, "--out", "c", "--launcher", "docker",
        "--docker-image", worker_image, "--no-gpu", cwd=trained,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("a 0.png", "a 1.png", "a 2.png"):
        ours, theirs = (
            cv2.imread(str(trained / folder / "masks" / name), cv2.IMREAD_UNCHANGED)
            for folder in "pc"
        )
        assert np.mean(ours != theirs) < 0.01
