"""Scores against hand-computed examples, NumPy and MONAI, and their edge cases."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import ConfigError, DataError
from trainer.metrics.bootstrap import bootstrap_interval
from trainer.metrics.counts import SegmentationCounts, predict_classes
from trainer.metrics.surface import hd95_px

torch.set_num_threads(1)


def masks(channels: int, num_images: int = 7, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, 9, 8)
    predicted = torch.randint(0, max(2, channels), shape, generator=generator)
    target = torch.randint(0, max(2, channels), shape, generator=generator)
    return [f"image {i}.png" for i in range(num_images)], predicted, target


def counted(channels: int, names, predicted, target, batch: int = 64, **options):
    counts = SegmentationCounts(channels, None, **options)
    for start in range(0, len(names), batch):
        part = slice(start, start + batch)
        counts.update(names[part], predicted[part], target[part])
    return counts


def test_dice_by_hand():
    # Image 1: P=2 T=2 I=1, Dice 0.5. Image 2: P=1 T=3 I=1, Dice 0.5. Image 3: empty twice, 1.
    predicted = torch.tensor([[[1, 1, 0, 0]], [[1, 0, 0, 0]], [[0, 0, 0, 0]]])
    target = torch.tensor([[[1, 0, 1, 0]], [[1, 1, 1, 0]], [[0, 0, 0, 0]]])
    scores = counted(1, ["a", "b", "c"], predicted, target).scores()
    assert scores.dice_dataset == 2 * 2 / (3 + 5)
    assert scores.dice_per_image == (0.5 + 0.5 + 1) / 3
    assert scores.per_class == {
        "foreground": {
            "dice": 0.5, "iou": 2 / 6, "sensitivity": 2 / 5, "precision": 2 / 3, "share": 5 / 12
        }
    }  # fmt: skip
    assert scores.pixel_accuracy == 8 / 12
    assert scores.classes_averaged == ("foreground",)
    assert scores.num_images == 3


def test_running_accuracy_stays_where_a_batch_adds_nothing():
    """Slices of several sizes: another process may have more batches than this one."""
    names, predicted, target = masks(3)
    counts = SegmentationCounts(3, None)
    found = []
    for part in (slice(0, 4), slice(4, 7)):
        counts.update(names[part], predicted[part], target[part])
        counts.end_batch()
        found.append(counts.running_accuracies())
        for _ in range(2):
            counts.end_batch()
        found.append(counts.running_accuracies())
    first = counted(3, names[:4], predicted[:4], target[:4]).scores().accuracy
    last = counted(3, names, predicted, target).scores().accuracy
    assert found == [[first], [first] * 2, [last], [last] * 2]
    assert counts.scores().accuracy == last


def numpy_dice(predicted, target, c):
    p, t = predicted.numpy() == c, target.numpy() == c
    return 2 * (p & t).sum() / (p.sum() + t.sum())


def test_all_classes_are_averaged_unless_the_background_is_left_out():
    # "Dice coefficient averaged across all classes", the tutorials say.
    names, predicted, target = masks(4)
    without = counted(4, names, predicted, target, include_background=False).scores()
    with_it = counted(4, names, predicted, target).scores()
    for scores in (without, with_it):
        assert scores.dice_with_background == with_it.dice_dataset
        assert scores.dice_without_background == without.dice_dataset
    one = counted(1, names, predicted.clamp(max=1), target.clamp(max=1)).scores()
    assert "dice_with_background" not in one.as_json()
    by_class = [numpy_dice(predicted, target, c) for c in range(4)]
    assert without.dice_dataset == pytest.approx(np.mean(by_class[1:]), rel=1e-12)
    assert with_it.dice_dataset == pytest.approx(np.mean(by_class), rel=1e-12)
    assert without.classes_averaged == ("class_1", "class_2", "class_3")
    assert with_it.classes_averaged[0] == "background"
    assert without.per_class["background"]["dice"] == pytest.approx(by_class[0])


def test_class_that_occurs_nowhere_is_left_out():
    names, predicted, target = masks(3)
    scores = counted(4, names, predicted, target, include_background=False).scores()
    assert scores.classes_averaged == ("class_1", "class_2")
    expected = np.mean([numpy_dice(predicted, target, c) for c in (1, 2)])
    assert scores.dice_dataset == pytest.approx(expected, rel=1e-12)
    assert math.isnan(scores.per_class["class_3"]["dice"])


def test_classes_averaged_are_the_same_whatever_is_predicted():
    # A trial that predicts a class that is in no mask is averaged over the same classes as others.
    names, predicted, target = masks(3)
    target = target.clamp(max=1)
    scores = counted(3, names, predicted, target).scores()
    assert scores.classes_averaged == ("background", "class_1")
    expected = np.mean([numpy_dice(predicted, target, c) for c in (0, 1)])
    assert scores.dice_dataset == pytest.approx(expected, rel=1e-12)
    assert scores.classes_averaged == counted(3, names, target, target).scores().classes_averaged
    assert scores.per_class["class_2"]["dice"] == 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("with_background", [True, False])
@pytest.mark.parametrize("ignored", [True, False])
def test_masks_without_foreground_score_nothing(channels, with_background, ignored):
    target = torch.full((2, 4, 4), 255 if ignored else 0)
    options = {"include_background": with_background, "ignore_index": 255}
    for predicted in (torch.zeros_like(target), torch.ones_like(target)):
        scores = counted(channels, ["a", "b"], predicted, target, **options).scores()
        assert math.isnan(scores.dice_dataset)
        assert math.isnan(scores.dice_per_image)
        assert scores.accuracy == 0
        assert scores.as_json()["dice_dataset"] is None
        assert scores.classes_averaged == ()


def test_no_image_at_all_gives_no_crash():
    scores = SegmentationCounts(1, None).scores()
    assert scores.num_images == 0
    assert math.isnan(scores.pixel_accuracy)


def test_per_image_dice_counts_empty_predicted_empty_as_one_per_class():
    predicted = torch.tensor([[[1, 1, 0, 0]], [[2, 0, 0, 0]]])
    target = torch.tensor([[[1, 1, 0, 0]], [[0, 2, 0, 0]]])
    scores = counted(3, ["a", "b"], predicted, target, include_background=False).scores()
    assert scores.dice_per_image == ((1 + 1) / 2 + (1 + 0) / 2) / 2


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    channels=st.sampled_from([1, 2, 5]),
    batch=st.integers(1, 12),
    ignore_index=st.sampled_from([None, 0, 1]),
)
def test_scores_do_not_depend_on_the_batch_size(seed, channels, batch, ignore_index):
    names, predicted, target = masks(channels, 12, seed)
    whole = counted(channels, names, predicted, target, ignore_index=ignore_index)
    split = counted(channels, names, predicted, target, batch, ignore_index=ignore_index)
    assert json.dumps(whole.scores().as_json()) == json.dumps(split.scores().as_json())
    assert whole.per_image_rows() == split.per_image_rows()


@given(seed=st.integers(0, 2**31), cut=st.integers(0, 7))
def test_merged_parts_score_as_the_whole(seed, cut):
    names, predicted, target = masks(3, 7, seed)
    whole = counted(3, names, predicted, target).scores()
    parts = [
        counted(3, names[part], predicted[part], target[part])
        for part in (slice(cut, None), slice(0, cut))
    ]
    parts[0].merge(parts[1])
    assert parts[0].scores() == whole


def test_ignored_pixels_count_nowhere():
    names, predicted, target = masks(3)
    target[:, :3] = 255
    ignoring = counted(3, names, predicted, target, ignore_index=255)
    cropped = counted(3, names, predicted[:, 3:], target[:, 3:])
    assert ignoring.scores() == cropped.scores()
    assert ignoring.per_image_rows() == cropped.per_image_rows()


def test_unknown_class_id_names_the_image():
    names, predicted, target = masks(3)
    target[4, 0, :2] = 7
    with pytest.raises(DataError, match=r"image 4.png: 2 pixels .* outside 0..2"):
        counted(3, names, predicted, target).scores()


def test_class_names():
    named = SegmentationCounts(1, ["background", "lesion"])
    named.update(["a"], torch.ones(1, 2, 2).long(), torch.ones(1, 2, 2).long())
    assert list(named.scores().per_class) == ["lesion"]
    assert list(SegmentationCounts(2, ["b", "cat"]).scores().per_class) == ["b", "cat"]
    with pytest.raises(ConfigError, match=r"data.class_names: expected 3 names"):
        SegmentationCounts(3, ["a", "b"])
    with pytest.raises(ConfigError, match="distinct"):
        SegmentationCounts(2, ["a", "a"])


def test_half_is_background():
    p = torch.tensor([0.5, np.nextafter(np.float32(0.5), 1), 0.49]).view(1, 1, 1, 3)
    assert predict_classes(p).tolist() == [[[0, 1, 0]]]
    assert np.round(p.numpy()).astype(int).ravel().tolist() == [0, 1, 0]
    assert predict_classes(torch.eye(3).view(1, 3, 1, 3)).tolist() == [[[0, 1, 2]]]


def test_undefined_figures_are_null_in_json():
    scores = counted(3, *masks(2)).scores().as_json()
    text = json.dumps(scores, allow_nan=False)
    assert json.loads(text)["per_class"]["class_2"]["precision"] is None


def test_csv_has_one_row_per_image(tmp_path):
    names, predicted, target = masks(2)
    names[0] = 'quo"te, comma\n.png'
    counts = counted(2, names, predicted, target, with_hd95=True)
    path = tmp_path / "per image.csv"
    counts.write_per_image_csv(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == names
    both = sum(int(row["class_1_intersection"]) for row in rows)
    size = sum(int(row["class_1_predicted"]) + int(row["class_1_target"]) for row in rows)
    assert 2 * both / size == counts.scores().dice_without_background
    with path.open(newline="") as file:
        assert next(csv.reader(file))[:6] == [
            "name",
            "background_intersection",
            "background_predicted",
            "background_target",
            "background_dice",
            "background_hd95_px",
        ]
    classes = counts.scores().classes_averaged
    assert bootstrap_interval(rows, classes) == bootstrap_interval(
        counts.per_image_rows(), classes
    )


def test_hd95_by_hand():
    a, b = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    a[5, 5], b[8, 9] = True, True
    assert hd95_px(a, b) == 5.0
    assert hd95_px(a, a) == 0.0
    assert math.isnan(hd95_px(a, np.zeros_like(a)))
    assert math.isnan(hd95_px(np.zeros_like(a), a))


def test_hd95_is_averaged_over_images_where_it_is_defined():
    predicted = torch.zeros(3, 6, 6, dtype=torch.long)
    target = torch.zeros(3, 6, 6, dtype=torch.long)
    predicted[0, 1, 1] = target[0, 1, 4] = target[1, 2, 2] = 1
    figures = counted(1, ["a", "b", "c"], predicted, target, with_hd95=True).scores().per_class
    assert figures["foreground"]["hd95_px"] == 3.0
    assert figures["foreground"]["hd95_images"] == 1


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.floats(0.02, 0.9))
def test_hd95_equals_scipy(seed, density):
    ndimage = pytest.importorskip("scipy.ndimage")
    generator = np.random.default_rng(seed)
    a, b = generator.random((2, 15, 18)) < density
    a[3, 3] = b[4, 4] = True
    edge_a, edge_b = (m & ~ndimage.binary_erosion(m) for m in (a, b))
    expected = max(
        np.percentile(ndimage.distance_transform_edt(~edge_b)[edge_a], 95),
        np.percentile(ndimage.distance_transform_edt(~edge_a)[edge_b], 95),
    )
    assert hd95_px(a, b) == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore")  # MONAI warns of empty masks, and of its own future
def test_per_image_figures_equal_monai():
    monai = pytest.importorskip("monai.metrics", reason="MONAI is not installed")
    names, predicted, target = masks(3)
    predicted[2], target[2] = 0, 0  # an empty image
    counts = counted(3, names, predicted, target, with_hd95=True)

    def one_hot(ids):
        return torch.nn.functional.one_hot(ids, 3).movedim(-1, 1)

    pair = one_hot(predicted), one_hot(target)
    dice = monai.compute_dice(*pair, ignore_empty=False).numpy()
    hd95 = monai.compute_hausdorff_distance(*pair, include_background=True, percentile=95)
    for row, image_dice, image_hd95 in zip(counts.per_image_rows(), dice, hd95, strict=True):
        for c, name in enumerate(("background", "class_1", "class_2")):
            assert row[f"{name}_dice"] == pytest.approx(image_dice[c], abs=1e-6)
            if row[f"{name}_hd95_px"] is None:
                assert not torch.isfinite(image_hd95[c])
            else:
                assert row[f"{name}_hd95_px"] == pytest.approx(image_hd95[c].item(), abs=1e-5)
    assert counts.scores().dice_per_image == pytest.approx(dice.mean(), abs=1e-6)
    confusion = monai.get_confusion_matrix(*pair).sum(0)
    scores = counts.scores().per_class
    for figure in ("sensitivity", "precision"):
        expected = monai.compute_confusion_matrix_metric(figure, confusion)
        ours = [scores[name][figure] for name in ("background", "class_1", "class_2")]
        np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-6)
