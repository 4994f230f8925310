"""Scores do not depend on how images are batched, and anybody can compute them again."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from support import write_discs
from worker import Worker, write_json, write_pairs, write_png

from trainer.networks import network_json


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose brightness tells the class: 0, 1 or 2."""
    root = tmp_path_factory.mktemp("three")
    rng = np.random.default_rng(5)
    masks = []
    for _ in range(6):
        mask = np.zeros((32, 32), np.uint8)
        for value in (1, 2):
            row, column = rng.integers(0, 20, 2)
            mask[row : row + 11, column : column + 11] = value
        masks.append(mask)
    write_pairs(root, masks)
    for part in ("train", "test"):
        for index, mask in enumerate(masks):
            image = mask * 100 + rng.integers(0, 40, mask.shape)
            write_png(root / part / "inputs" / f"{index:02d}.png", image)
    return root


def dice_by_numpy(predictions: Path, masks: Path) -> float:
    """The five lines of NumPy that recompute the accuracy of a binary network."""
    with h5py.File(predictions) as file:
        p = np.stack([file[name][0] > 0.5 for name in sorted(file)])
        t = np.stack([cv2.imread(str(masks / name), 0) > 127 for name in sorted(file)])
    return 2 * (p & t).sum() / (p.sum() + t.sum())


def evaluate(worker: Worker, **changes: object):
    """Evaluate weights that were trained and saved as weights.pt in the run's folder."""
    return worker(
        data__input_path=None, data__target_path=None, checkpoints__load="weights.pt", **changes
    ).succeeded()


def train(worker: Worker, **changes: object):
    result = worker(num_epochs=6, checkpoints__save="ck", **changes).succeeded()
    (result.folder / "ck/model_checkpoint_6.pt").rename(result.folder / "weights.pt")
    return result


def test_dice_is_the_same_for_test_batches_of_1_7_and_all(worker: Worker, discs: Path) -> None:
    trained = train(worker)
    found = {}
    for batch_size in (1, 3, 7, 1000):
        result = evaluate(worker, data__test_batch_size=batch_size, data__test_output_path="p")
        found[batch_size] = (result.accuracies, result.metrics[0]["dice_per_image"])
    assert len({repr(value) for value in found.values()}) == 1
    assert found[1][0] == [trained.accuracies[-1]]
    assert 0.3 < found[1][0][0] < 1
    dice = dice_by_numpy(result.folder / "p/output_1.h5", discs / "test/targets")
    assert found[1][0][0] == pytest.approx(dice, abs=1e-9)


def test_predictions_are_named_by_file_channels_first_and_probabilities(worker, discs) -> None:
    result = worker(data__test_output_path="my predictions").succeeded()
    names = sorted(path.name for path in (discs / "test/inputs").iterdir())
    with h5py.File(result.folder / "my predictions/output_1.h5") as file:
        assert sorted(file) == names
        for name in names:
            assert file[name].shape == (1, 32, 32)
            assert file[name].dtype == np.float32
            assert 0 <= file[name][...].min() <= file[name][...].max() <= 1
    assert [path.name for path in (result.folder / "my predictions").iterdir()] == ["output_1.h5"]


def test_three_classes_are_learned_and_their_dice_recomputed(worker, three_classes) -> None:
    result = worker(
        data=three_classes, num_epochs=30, optimizer__learning_rate=0.05,
        layers="unet:width=8,depth=1", loss={"function": "NLL", "source": "softmax"},
        data__test_output_path="p", data__class_names=["tissue", "cyst", "lesion"],
    ).succeeded()  # fmt: skip
    assert result.accuracies[-1] > 0.8
    with h5py.File(result.folder / "p/output_1.h5") as file:
        p = np.stack([file[name][...].argmax(0) for name in sorted(file)])
        np.testing.assert_allclose(file["00.png"][...].sum(0), 1, atol=1e-5)
    t = np.stack([cv2.imread(str(f), 0) for f in sorted(three_classes.glob("test/targets/*"))])
    dice = [2 * ((p == c) & (t == c)).sum() / ((p == c).sum() + (t == c).sum()) for c in range(3)]
    assert result.accuracies[-1] == pytest.approx(sum(dice) / 3, abs=1e-9)
    last = result.metrics[-1]
    assert last["classes_averaged"] == ["tissue", "cyst", "lesion"]  # as the tutorials do
    assert last["dice_without_background"] == pytest.approx((dice[1] + dice[2]) / 2)
    assert f"without = {last['dice_without_background']:.6f}; the accuracy is the one with it" in (
        result.out
    )
    assert last["per_class"]["tissue"]["dice"] == pytest.approx(dice[0])
    assert "class ids, 3 classes, not rescaled" in result.out


def test_background_is_left_out_where_the_config_says_so(worker, three_classes) -> None:
    changes = {"data": three_classes, "loss": {"function": "NLL", "source": "softmax"}}
    with_it = worker(**changes).succeeded().metrics[0]
    without = worker(**changes, metrics__include_background=False).succeeded().metrics[0]
    assert with_it["per_class"] == without["per_class"]
    mean = np.mean([figures["dice"] for figures in with_it["per_class"].values()])
    assert with_it["dice_dataset"] == pytest.approx(mean)
    assert len(with_it["classes_averaged"]) == len(without["classes_averaged"]) + 1


def test_masks_of_0_and_1_score_like_masks_of_0_and_255(worker, discs, tmp_path) -> None:
    plain = worker().succeeded().accuracies
    for path in discs.glob("*/*/*.png"):
        target = tmp_path / "ids" / path.relative_to(discs)
        target.parent.mkdir(parents=True, exist_ok=True)
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(target), image // 255 if path.parts[-2] == "targets" else image)
    result = worker(data=tmp_path / "ids").succeeded()
    assert result.accuracies == plain
    assert "{0, 1}: class ids, 2 classes, not rescaled" in result.out


def test_inference_without_masks_writes_predictions_and_no_score(worker: Worker) -> None:
    trained = train(worker, data__test_output_path="with")
    write_json(trained.folder / "net.json", network_json("unet:width=2,depth=1", (32, 32, 1), 1))
    result = evaluate(
        worker, layers="net.json", data__test_target_path=None, data__test_output_path="without",
        loss=None, optimizer=None,
    )  # fmt: skip
    assert result.scores == []
    assert "Accuracy" not in result.out
    assert "Loss" not in result.out
    with (
        h5py.File(result.folder / "with/output_1.h5") as expected,
        h5py.File(result.folder / "without/output_1.h5") as found,
    ):
        assert sorted(found) == sorted(expected)
        for name in expected:
            np.testing.assert_allclose(found[name][...], expected[name][...], atol=1e-6)


def test_built_in_network_without_masks_says_how_to_write_it_to_a_file(worker: Worker) -> None:
    error = worker(
        data__input_path=None, data__target_path=None, data__test_target_path=None
    ).error()
    assert "--write-network" in error


def test_evaluation_without_loss_gives_scores(worker: Worker) -> None:
    train(worker)
    result = evaluate(worker, loss=None)
    assert result.metrics[0]["loss"] is None
    assert len(result.scores) == 1


def test_output_coarser_than_the_masks_is_enlarged_to_them(worker: Worker) -> None:
    network = {
        "class_name": "Sequential",
        "config": {
            "name": "coarse",
            "layers": [
                {
                    "class_name": "Conv2D",
                    "config": {
                        "name": "conv", "filters": 1, "kernel_size": [4, 4], "strides": [4, 4],
                        "padding": "same", "activation": "sigmoid",
                        "batch_input_shape": [None, 32, 32, 1],
                    },
                }
            ],
        },
    }  # fmt: skip
    result = worker(layers=network, data__test_output_path="p").succeeded()
    with h5py.File(result.folder / "p/output_1.h5") as file:
        assert {file[name].shape for name in file} == {(1, 32, 32)}


def test_every_test_line_starts_with_the_epoch_and_ends_with_the_accuracy(worker) -> None:
    result = worker(num_epochs=3).succeeded()
    lines = (result.folder / "out_test.txt").read_text().splitlines()
    assert [int(line.split()[0]) for line in lines] == [1, 2, 3]
    for line, entry in zip(lines, result.metrics, strict=True):
        assert re.fullmatch(r"\d+ \d+\.\d{3} [\d.e+-]+ [01]\.\d{9}", line)
        assert float(line.split()[-1]) == pytest.approx(entry["dice_dataset"], abs=1e-9)


def test_metrics_are_json_without_nan(worker: Worker) -> None:
    text = (worker().succeeded().folder / "metrics.jsonl").read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse)["epoch"] == 1


def test_hd95_is_written_where_it_is_asked_for_and_can_be_recomputed(
    worker: Worker, discs: Path, tmp_path: Path
) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    data = tmp_path / "data"
    shutil.copytree(discs, data)
    empty = data / "test/targets/img 03.png"
    write_png(empty, np.zeros((32, 32)))
    train(worker, data=data)
    assert "hd95" not in (tmp_path / "per_image.csv").read_text()
    result = evaluate(worker, data=data, metrics={"hd95": True}, data__test_output_path=".")
    with (tmp_path / "per_image.csv").open(newline="") as file:
        found = {row["name"]: row["foreground_hd95_px"] for row in csv.DictReader(file)}
    expected = {}
    with h5py.File(tmp_path / "output_1.h5") as file:
        for name in file:
            masks = (file[name][0] > 0.5, cv2.imread(str(data / "test/targets" / name), 0) > 127)
            edges = [m & ~ndimage.binary_erosion(m) for m in masks]
            if all(m.any() for m in masks):
                expected[name] = max(
                    np.percentile(ndimage.distance_transform_edt(~other)[edge], 95)
                    for edge, other in (edges, edges[::-1])
                )
    assert len(expected) == 4
    assert found.pop(empty.name) == ""
    assert {name: float(text) for name, text in found.items()} == pytest.approx(expected, abs=1e-4)
    figures = result.metrics[-1]["per_class"]["foreground"]
    assert figures["hd95_px"] == pytest.approx(np.mean(list(expected.values())), abs=1e-4)
    assert figures["hd95_images"] == 4


@pytest.mark.parametrize("num_channels", [1, 2])
def test_a_last_class_that_is_ignored_needs_no_channel(
    worker: Worker, tmp_path: Path, num_channels: int
) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[4:20, 4:20] = 1
    mask[12:28, 8:28] = 255  # as PASCAL VOC marks what belongs to no class
    write_pairs(tmp_path, [mask, mask.T])
    network = network_json("unet:width=2,depth=1", (32, 32, 1), num_channels)
    result = worker(
        data=tmp_path,
        layers=str(write_json(tmp_path / "net.json", network)),
        loss={"function": "BCE", "ignore_index": 2, "weight": "inverse_frequency^0.5"},
        data__mask_values=[0, 1, 255],
    ).succeeded()
    with (result.folder / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    name = "foreground" if num_channels == 1 else "class_1"
    assert [int(row[f"{name}_target"]) for row in rows] == [int((mask == 1).sum())] * 2
    counted = result.metrics[-1]["per_class"][name]["share"]
    assert counted == (mask == 1).sum() / (mask != 255).sum()


def test_masks_without_foreground_give_no_score(worker, tmp_path) -> None:
    empty = write_discs(tmp_path / "empty", num_train=3, num_test=2)
    for path in (empty / "test/targets").iterdir():
        write_png(path, np.zeros((32, 32)))
    result = worker(data=empty).succeeded()
    assert result.metrics[-1]["dice_dataset"] is None
    assert result.metrics[-1]["dice_per_image"] is None
    assert result.accuracies[-1] == 0
    assert "have no foreground" in result.out
