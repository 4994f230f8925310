"""Masks stay where their images are when both are resized, and a stored model keeps its rule."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from support import write_discs
from test_transforms import load
from worker import Worker, write_pairs

from trainer.data.geometry import ReadingStep, read_through

LEARNS = {"num_epochs": 12, "layers": "unet:width=4,depth=2", "data__batch_size": 2}


def by_centres(mask: np.ndarray, size: int) -> np.ndarray:
    """Take the source pixel under the centre of each new one, in NumPy."""
    where = [np.floor((np.arange(size) + 0.5) * side / size).astype(int) for side in mask.shape]
    return mask[np.ix_(*where)]


@pytest.mark.parametrize("sides", [(2048, 256), (300, 256), (100, 33), (64, 256), (7, 50)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_mask_is_taken_at_the_pixels_centres(sides: tuple[int, int], dtype: type) -> None:
    source, size = sides
    mask = np.random.default_rng(0).integers(0, 9, (source, source)).astype(dtype)
    rows = np.arange(source, dtype=dtype if source < 256 else np.uint16)
    ramp = np.broadcast_to(rows[:, None], (source, source)).copy()
    step = (ReadingStep("resize", (size, size)),)
    found = read_through(ramp, step, nearest=True)
    assert np.abs(found.astype(int) - by_centres(ramp, size).astype(int)).max() <= 1  # a tie
    assert (read_through(mask, step, nearest=True) == by_centres(mask, size)).mean() > 0.95


def test_masks_do_not_move_against_images() -> None:
    # The image is the mask: what linear interpolation calls foreground must be the mask's.
    rows, columns = np.mgrid[:512, :512]
    disc = (((rows - 200) ** 2 + (columns - 270) ** 2) < 90**2).astype(np.uint8)
    dices = {}
    for is_exact in (True, False):
        mask = read_through(disc, (ReadingStep("resize", (64, 64), is_exact),), nearest=True)
        seen = cv2.resize(disc * 255, (64, 64), interpolation=cv2.INTER_AREA) > 127
        dices[is_exact] = 2 * (seen & (mask > 0)).sum() / (seen.sum() + mask.sum())
    assert dices[True] > 0.99
    assert dices[True] > dices[False] + 0.01


def test_setting_chooses_the_rule_and_the_cache_tells_them_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_pairs(tmp_path, [rng.integers(0, 3, (40, 40)) for _ in range(2)])
    resize = [{"resize": [13, 13]}]
    for setting, mode in (
        ("opencv", cv2.INTER_NEAREST),
        ("exact", cv2.INTER_NEAREST_EXACT),
        (None, cv2.INTER_NEAREST_EXACT),
        ("opencv", cv2.INTER_NEAREST),
    ):
        data = load(
            tmp_path, transforms=resize, mask_resize=setting, cache=str(tmp_path / "cache")
        )
        for index, name in enumerate(data.train.names):
            mask = cv2.imread(str(tmp_path / "train/targets" / name), cv2.IMREAD_UNCHANGED)
            expected = cv2.resize(mask, (13, 13), interpolation=mode)
            np.testing.assert_array_equal(data.train.targets_NHW[index], expected)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("large"), num_train=8, num_test=4, size=93)


def evaluation(worker: Worker, data: Path, checkpoint: Path, **changes: object):
    return worker(
        data=data, checkpoints={"load": str(checkpoint)}, data__input_path=None,
        data__target_path=None, layers=LEARNS["layers"], **changes,
    ).succeeded()  # fmt: skip


def test_stored_model_reproduces_its_score_by_the_rule_it_was_trained_with(
    worker: Worker, large: Path, tmp_path: Path
) -> None:
    scores = {}
    for rule in ("exact", "opencv"):
        trained = worker(
            data=large, **LEARNS, data__mask_resize=rule,
            checkpoints={"save": str(tmp_path / rule)},
        ).succeeded()  # fmt: skip
        checkpoint = tmp_path / rule / "model_checkpoint_12.pt"
        again = evaluation(worker, large, checkpoint)
        assert again.accuracies[-1] == trained.accuracies[-1]
        scores[rule] = trained.accuracies[-1]
    assert scores["exact"] != scores["opencv"]
    # One that was stored before there was a choice says nothing of it.
    import torch

    content = torch.load(tmp_path / "opencv/model_checkpoint_12.pt", weights_only=True)
    del content["mask_resize"]
    torch.save(content, tmp_path / "old.pt")
    old = evaluation(worker, large, tmp_path / "old.pt")
    assert old.accuracies[-1] == scores["opencv"]
    assert "data.mask_resize opencv" in old.out
    assert "without the background" in old.out
    assert (
        evaluation(worker, large, tmp_path / "old.pt", data__mask_resize="exact").accuracies[-1]
        != scores["opencv"]
    )


def test_run_of_an_earlier_release_goes_on_with_the_masks_that_it_had(
    worker: Worker, large: Path
) -> None:
    import torch

    resume = {"save": "ck", "resume": True}
    earlier = {"data__mask_resize": "opencv", "metrics": {"include_background": False}}
    changes = {"data": large, **LEARNS, "num_epochs": 4}
    whole = worker(**changes, **earlier, checkpoints={"save": "whole"}).succeeded()
    exact = worker(**changes, checkpoints={"save": "exact"}).succeeded()
    assert exact.losses != whole.losses
    folder = worker(**{**changes, "num_epochs": 2}, **earlier, checkpoints=resume).folder
    state = torch.load(folder / "ck/resume.pt", weights_only=True)
    for key in ("mask_resize", "follow_symlinks"):  # as an engine that knew neither wrote it
        del state["config"]["data"][key]
    for key in ("at_size", "plugins"):
        del state["config"]["metrics"][key]
    torch.save(state, folder / "ck/resume.pt")
    resumed = worker(**changes, checkpoints=resume).succeeded()
    assert "Resuming after epoch 2" in resumed.out
    assert (
        "Masks are resized as before this run was killed: data.mask_resize opencv" in resumed.out
    )
    assert resumed.losses == whole.losses
    assert resumed.accuracies == whole.accuracies
    torch.save(state, folder / "ck/resume.pt")
    error = worker(**changes, checkpoints=resume, data__mask_resize="exact").error()
    assert "other settings (data)" in error


def test_scores_at_the_images_own_size_are_numpys(
    worker: Worker, large: Path, tmp_path: Path
) -> None:
    result = worker(
        data=large, **LEARNS, metrics={"at_size": "both"}, data__test_output_path="p"
    ).succeeded()
    both = size = 0
    per_image = {}
    with h5py.File(result.folder / "p/output_1.h5") as file:
        for name in file:
            mask = cv2.imread(str(large / "test/targets" / name), 0) > 0
            full = cv2.resize(file[name][0], mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
            predicted = full > 0.5
            both += (predicted & mask).sum()
            size += predicted.sum() + mask.sum()
            per_image[name] = 2 * (predicted & mask).sum() / (predicted.sum() + mask.sum())
    own = result.metrics[-1]["own_size"]
    assert own["dice_dataset"] == pytest.approx(2 * both / size, abs=1e-9)
    assert own["dice_dataset"] != result.metrics[-1]["dice_dataset"]
    assert result.accuracies[-1] == pytest.approx(result.metrics[-1]["dice_dataset"], abs=1e-9)
    with (result.folder / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row["foreground_dice_own_size"]) == pytest.approx(per_image[row["name"]])
    alone = worker(data=large, **LEARNS, metrics={"at_size": "images"}).succeeded()
    assert alone.accuracies[-1] == pytest.approx(own["dice_dataset"], abs=1e-9)
    assert "at the images' own size" in alone.out
