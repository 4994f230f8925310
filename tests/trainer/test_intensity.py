"""16-bit images are scaled by a stated range, which goes wherever the model goes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_transforms import load, whole
from worker import Worker, write_png

from trainer.cli import main
from trainer.data.intensity import IntensityRange, choose_range, fit_range
from trainer.errors import DataError
from trainer.loading.batches import Batches
from trainer.networks import network_json


def rewrite(discs: Path, root: Path, change, dtype: type = np.uint16) -> Path:
    """Copy the discs with other pixels in the inputs."""
    shutil.copytree(discs, root)
    for path in root.glob("*/inputs/*.png"):
        write_png(path, change(cv2.imread(str(path), 0).astype(np.int64)), dtype)
    return root


@pytest.fixture
def twelve_bits(discs: Path, tmp_path: Path) -> Path:
    """Images of 12 bits in 16-bit files."""
    return rewrite(discs, tmp_path / "12 bits", lambda image: image * 16 + 15)


def twelve_bits_by_hand(discs: Path, tmp_path: Path) -> Path:
    """The same images in float32's nearest 16-bit numbers, 4095 at the full scale."""
    return rewrite(
        discs, tmp_path / "by hand", lambda image: np.rint((image * 16 + 15) * 65535 / 4095)
    )


def test_12_bits_train_to_the_numbers_of_the_same_data_scaled_by_hand(
    worker: Worker, discs: Path, twelve_bits: Path, tmp_path: Path
) -> None:
    scaled = worker(
        data=twelve_bits, num_epochs=2, precision="fp32", data__intensity_range=[0, 4095]
    )
    by_hand = worker(
        data=twelve_bits_by_hand(discs, tmp_path), num_epochs=2, precision="fp32",
        data__intensity_range="full",
    )  # fmt: skip
    assert "Intensities: 0 to 4095 become 0 to 1 (data.intensity_range)" in scaled.out
    assert scaled.succeeded().losses == pytest.approx(by_hand.succeeded().losses, rel=1e-3)
    assert scaled.accuracies == pytest.approx(by_hand.accuracies, abs=2e-3)


def test_8_bits_are_scaled_as_ever_and_by_a_range_where_one_is_set(worker: Worker) -> None:
    plain, full, stated, other = (
        worker(**changes).succeeded()
        for changes in (
            {},
            {"data__intensity_range": "full"},
            {"data__intensity_range": [0, 255]},
            {"data__intensity_range": [50, 200]},
        )
    )
    assert plain.losses == full.losses == pytest.approx(stated.losses)
    assert plain.losses != other.losses
    assert "Intensities" not in plain.out


def test_range_is_fitted_on_the_training_images_alone(
    worker: Worker, twelve_bits: Path, discs: Path, tmp_path: Path
) -> None:
    files = sorted((twelve_bits / "train/inputs").iterdir())
    pixels = np.concatenate([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in files])
    low, high = np.percentile(pixels, (0.1, 99.9), method="inverted_cdf")
    fitted = worker(data=twelve_bits).succeeded()
    assert (
        f"Intensities: {low:g} to {high:g} become 0 to 1 (the training images' 0.1" in fitted.out
    )
    stated = worker(data=twelve_bits, data__intensity_range=[int(low), int(high)])
    assert stated.succeeded().losses == fitted.losses
    for path in (twelve_bits / "test/inputs").iterdir():
        write_png(path, np.full((32, 32), 65_535), np.uint16)
    assert worker(data=twelve_bits).losses == fitted.losses


def test_values_beyond_the_range_are_0_and_1(tmp_path: Path) -> None:
    write_png(tmp_path / "train/inputs/a.png", [[0, 100], [150, 999]], np.uint16)
    write_png(tmp_path / "train/targets/a.png", [[0, 255], [0, 255]])
    data = load(tmp_path, grayscale=True, intensity_range=[100, 200])
    data = data.with_range(IntensityRange(100, 200, 16, "here"))
    np.testing.assert_allclose(whole(data).inputs_NCHW[0, 0], [[0, 0], [0.5, 1]])
    assert data.train.inputs_NHWC.dtype == np.uint16  # as it is in the cache


@given(st.lists(st.integers(0, 65_535), min_size=1, max_size=3000))
def test_fitted_range_is_numpy_s_percentiles_or_the_extremes(values: list[int]) -> None:
    found = fit_range(Counter(values))
    low, high = np.percentile(values, (0.1, 99.9), method="inverted_cdf")
    if low == high:
        low, high = min(values), max(min(values) + 1, max(values))
    assert (found.low, found.high) == (low, high)


def test_range_travels_with_the_checkpoint_wherever_it_goes(
    worker: Worker, twelve_bits: Path, tmp_path: Path
) -> None:
    trained = worker(data=twelve_bits, num_epochs=8, checkpoints__save="ck").succeeded()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "ck/model_checkpoint_8.pt").rename(moved / "model.pt")
    evaluated = worker(
        data=twelve_bits, data__input_path=None, data__target_path=None,
        checkpoints__load=str(moved / "model.pt"),
    ).succeeded()  # fmt: skip
    assert "(stored with the model)" in evaluated.out
    assert evaluated.accuracies[0] == trained.accuracies[-1]
    changed = worker(
        data=twelve_bits, data__input_path=None, data__target_path=None,
        checkpoints__load=str(moved / "model.pt"), data__intensity_range="full",
    )  # fmt: skip
    assert changed.accuracies != evaluated.accuracies
    config = json.loads((tmp_path / "config.json").read_text())["neural_network"]
    del config["data"]["intensity_range"]
    config["layers"] = "layers.json"
    (moved / "layers.json").write_text(
        json.dumps(network_json("unet:width=2,depth=1", (32, 32, 1), 1))
    )
    config["checkpoints"] = {"load": "model.pt"}
    (moved / "config.json").write_text(json.dumps({"neural_network": config}))
    (tmp_path / "elsewhere").rename(tmp_path / "further")
    inputs = twelve_bits / "test/inputs"
    arguments = ["--predict", str(tmp_path / "further"), "--images", str(inputs), "--out", "o"]
    assert main(arguments) == 0
    found = [cv2.imread(str(tmp_path / "o/masks" / p.name), 0) > 0 for p in inputs.iterdir()]
    true = [
        cv2.imread(str(twelve_bits / "test/targets" / p.name), 0) > 0 for p in inputs.iterdir()
    ]
    both = 2 * np.logical_and(found, true).sum() / (np.sum(found) + np.sum(true))
    assert both == pytest.approx(trained.accuracies[-1], abs=1e-6)


def test_new_training_fits_its_own_range(worker: Worker, twelve_bits: Path, discs: Path) -> None:
    worker(data=twelve_bits, checkpoints__save="ck").succeeded()
    tuned = worker(data=discs, checkpoints__load="ck/model_checkpoint_1.pt").succeeded()
    assert "Intensities" not in tuned.out


def test_killed_run_goes_on_with_its_range(
    worker: Worker, twelve_bits: Path, tmp_path: Path
) -> None:
    keep = {"save": "ck", "resume": True}
    first = worker(data=twelve_bits, num_epochs=1, checkpoints=keep).succeeded()
    range_of_run = torch.load(tmp_path / "ck/model_checkpoint_1.pt")["intensity_range"]
    assert first.out.count("Intensities") == 1
    for path in (twelve_bits / "train/inputs").iterdir():  # the fit would be another one now
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        write_png(path, image // 2, np.uint16)
    worker(data=twelve_bits, num_epochs=2, checkpoints=keep).succeeded()
    again = torch.load(tmp_path / "ck/model_checkpoint_2.pt")["intensity_range"]
    assert (again["low"], again["high"]) == (range_of_run["low"], range_of_run["high"])


def test_other_bits_than_the_model_s_are_refused(
    worker: Worker, twelve_bits: Path, discs: Path
) -> None:
    worker(data=twelve_bits, checkpoints__save="ck").succeeded()
    changes = {
        "data__input_path": None, "data__target_path": None,
        "checkpoints__load": "ck/model_checkpoint_1.pt",
    }  # fmt: skip
    error = worker(data=discs, **changes).error()
    assert "trained on images of 16 bits" in error
    assert "set data.intensity_range" in error
    worker(data=discs, **changes, data__intensity_range="full").succeeded()


def test_model_of_8_bits_refuses_16_bits_rather_than_predicting_nothing(
    worker: Worker, twelve_bits: Path, discs: Path, tmp_path: Path
) -> None:
    worker(data=discs, checkpoints__save="ck").succeeded()
    changes = {
        "data__input_path": None, "data__target_path": None,
        "checkpoints__load": "ck/model_checkpoint_1.pt",
    }  # fmt: skip
    error = worker(data=twelve_bits, **changes).error()
    assert "trained on images of 8 bits" in error
    assert "these images have 16" in error
    worker(data=twelve_bits, **changes, data__intensity_range=[0, 4095]).succeeded()
    worker(data=twelve_bits, **changes, data__intensity_range="full").succeeded()
    assert "Intensities" not in worker(data=discs, **changes).succeeded().out


def test_training_on_8_bits_and_testing_on_16_is_refused(
    worker: Worker, twelve_bits: Path, discs: Path
) -> None:
    shutil.rmtree(twelve_bits / "train")
    shutil.copytree(discs / "train", twelve_bits / "train")
    error = worker(data=twelve_bits).error()
    assert "training images have 8 bits a channel, test images 16" in error


def test_parts_of_different_bits_are_refused_unless_each_has_its_full_scale(
    worker: Worker, twelve_bits: Path, discs: Path
) -> None:
    shutil.rmtree(twelve_bits / "test")
    shutil.copytree(discs / "test", twelve_bits / "test")
    error = worker(data=twelve_bits).error()
    assert "training images have 16 bits a channel, test images 8" in error
    worker(data=twelve_bits, data__intensity_range="full").succeeded()


@pytest.mark.parametrize("value", [[3], [3, 3], [4, 2], "fit", [0, True], [0, float("inf")], 7])
def test_range_that_is_none_is_refused(worker: Worker, value: object) -> None:
    error = worker(data__intensity_range=value).error()
    assert 'data.intensity_range: expected "full" or two numbers [low, high]' in error


@pytest.mark.parametrize("stored", [None, 3, {}, {"low": 3, "high": 1, "bits": 16}, {"low": "a"}])
def test_nonsense_in_a_checkpoint_is_no_range(stored: object) -> None:
    assert IntensityRange.of_checkpoint(stored) is None


def test_choice_goes_setting_then_fit_then_model() -> None:
    fitted, stored = (IntensityRange(n, 9, 16, "") for n in (1, 2))
    assert choose_range((3, 4), bits=16, fitted=fitted, stored=stored).low == 3
    assert choose_range("full", bits=16, fitted=fitted, stored=stored) is None
    assert choose_range(None, bits=16, fitted=fitted, stored=stored) == fitted
    assert choose_range(None, bits=16, fitted=None, stored=stored) == stored
    assert choose_range(None, bits=16, fitted=None, stored=None) is None
    with pytest.raises(DataError, match="trained on images of 16 bits"):
        choose_range(None, bits=8, fitted=None, stored=stored)


def test_overlay_of_a_dark_16_bit_image_is_not_black(tmp_path: Path) -> None:
    from trainer.data.overlay import shown

    image = np.random.default_rng(0).integers(0, 400, (20, 20, 3)).astype(np.uint16)
    assert shown(image).dtype == np.uint8
    assert shown(image).min() == 0
    assert shown(image).max() == 255
    assert (shown(image.astype(np.uint8)) == image.astype(np.uint8)).all()


def test_whole_set_on_the_device_gives_the_same_batch(tmp_path: Path) -> None:
    write_png(tmp_path / "train/inputs/a.png", [[0, 100], [150, 999]], np.uint16)
    write_png(tmp_path / "train/targets/a.png", [[0, 255], [0, 255]])
    data = load(tmp_path, grayscale=True).with_range(IntensityRange(7, 900, 16, "here"))
    batches = Batches(data.train, batch_size=1, device=torch.device("cpu"), continuous=False)
    plain = next(batches.in_order()).inputs_NCHW
    batches._inputs.move_to_device()
    assert torch.equal(next(batches.in_order()).inputs_NCHW, plain)
