"""The bootstrap interval of a Dice against a plain loop, and its edge cases."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from trainer.errors import DataError
from trainer.metrics.bootstrap import bootstrap_interval, dice_of_counts


def rows_of(counts: np.ndarray) -> list[dict[str, int]]:
    return [
        {
            f"{name}_{figure}": int(value)
            for name, triple in zip("ab"[: len(image)], image, strict=True)
            for figure, value in zip(("intersection", "predicted", "target"), triple, strict=True)
        }
        for image in counts
    ]


def test_interval_agrees_with_a_plain_loop():
    generator = np.random.default_rng(5)
    sizes = generator.integers(10, 100, (40, 2, 2))
    both = (sizes.min(-1, keepdims=True) * generator.random((40, 2, 1))).astype(int)
    counts = np.concatenate([both, sizes], -1)
    rows = rows_of(counts)
    low, high = bootstrap_interval(rows, ["a", "b"])
    assert low < dice_of_counts(counts.sum(0)).mean() < high
    assert (low, high) == bootstrap_interval(rows, ["a", "b"])
    assert (low, high) != bootstrap_interval(rows, ["a", "b"], seed=1)
    dices = [
        dice_of_counts(counts[generator.integers(0, 40, 40)].sum(0)).mean() for _ in range(2000)
    ]
    np.testing.assert_allclose((low, high), np.quantile(dices, [0.025, 0.975]), atol=0.01)


def test_class_that_no_drawn_image_has_is_left_out():
    absent = [[0, 0, 0], [1, 2, 2]]
    assert bootstrap_interval(rows_of(np.array([absent] * 3)), ["a", "b"]) == (0.5, 0.5)
    with pytest.raises(DataError, match="a class that occurs"):
        bootstrap_interval(rows_of(np.array([absent] * 3)), ["a"])


def test_bootstrap_of_identical_images_has_no_width():
    rows = [{"x_intersection": 1, "x_predicted": 2, "x_target": 2}] * 5
    assert bootstrap_interval(rows, ["x"]) == (0.5, 0.5)


def test_bootstrap_names_what_is_wrong_with_the_rows():
    with pytest.raises(DataError, match="'y_intersection' is missing"):
        bootstrap_interval([{"name": "a"}], ["y"])
    with pytest.raises(DataError, match="at least one image"):
        bootstrap_interval([], ["y"])
    with pytest.raises(DataError, match="per-image counts"):
        bootstrap_interval([{"x_intersection": "?", "x_predicted": 2, "x_target": 2}], ["x"])


def test_bootstrap_does_not_import_torch():
    code = "import sys, trainer.metrics.bootstrap; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_groups_are_drawn_as_wholes():
    generator = np.random.default_rng(3)
    sizes = generator.integers(10, 100, (40, 1, 2))
    both = (sizes.min(-1, keepdims=True) * generator.random((40, 1, 1))).astype(int)
    counts = np.concatenate([both, sizes], -1)
    groups = [f"patient {index // 5}" for index in range(40)]
    sums = counts.reshape(8, 5, 1, 3).sum(1)
    found = bootstrap_interval(rows_of(counts), ["a"], groups=groups)
    assert found == bootstrap_interval(rows_of(sums), ["a"])
    shuffled = generator.permutation(40)
    again = bootstrap_interval(
        rows_of(counts[shuffled]), ["a"], groups=[groups[index] for index in shuffled]
    )
    np.testing.assert_allclose(again, found, atol=0.02)


def test_interval_over_patients_covers_what_one_over_images_does_not():
    # 12 patients with 20 slices each; how well a slice is segmented is the patient's.
    generator = np.random.default_rng(0)
    truth, covered = 0.75, {"patients": 0, "images": 0}
    groups = [f"patient {index // 20}" for index in range(240)]
    for _ in range(60):
        share = np.repeat(generator.uniform(0.5, 1, 12), 20)
        rows = rows_of(np.array([[[int(100 * s), 100, 100]] for s in share]))
        for name, of in (("patients", groups), ("images", None)):
            low, high = bootstrap_interval(rows, ["a"], groups=of, num_resamples=300)
            covered[name] += low <= truth <= high
    assert covered["patients"] > 50
    assert covered["images"] < 35
