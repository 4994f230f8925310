"""The demo's images: physics of the speckle, statistics of the lesions, folder on disk."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import stats

from studies.demo import ultrasound
from studies.demo.phantom import FIELD_MM
from studies.demo.ultrasound import UltrasoundSpec, generate, image_rng, render, speckle_envelope
from trainer.errors import DataError

SPEC = UltrasoundSpec()
TINY = UltrasoundSpec(num_train=3, num_test=2)

RASTER_OF_VERSION_1 = [
    [152.9, 146.9, 146.3, 146.3],
    [144.4, 112.0, 135.2, 166.0],
    [147.7, 104.9, 120.8, 153.8],
    [118.7, 127.4, 118.8, 113.6],
]
LESION_PX_OF_VERSION_1 = 448


@pytest.fixture(scope="module")
def training_set():
    pairs = [render(image_rng(SPEC.seed, "train", i), SPEC) for i in range(SPEC.num_train)]
    images_nhw = np.stack([image for image, _ in pairs])
    return images_nhw, np.stack([mask for _, mask in pairs]) > 0


def pooled_dice(predicted_nhw, true_nhw):
    return 2 * (predicted_nhw & true_nhw).sum() / (predicted_nhw.sum() + true_nhw.sum())


def per_image_dice(predicted_nhw, true_nhw):
    sums = predicted_nhw.sum((1, 2)) + true_nhw.sum((1, 2))
    both = (predicted_nhw & true_nhw).sum((1, 2))
    return np.where(sums > 0, 2 * both / np.maximum(sums, 1), 1.0).mean()


# --- physics


def homogeneous_envelope(seed, size_px=128):
    """Return the envelope of homogeneous tissue, away from the borders, and its spacing in mm."""
    num = size_px * ultrasound.SAMPLES_PER_PX
    envelope = speckle_envelope(np.random.default_rng(seed), np.ones((num, num)))
    return envelope[8:-8, 8:-8], FIELD_MM / num


def correlation_length_mm(envelope, axis, spacing_mm):
    """Return the lag at which the autocovariance falls to a half."""
    centred = envelope - envelope.mean()
    power = np.abs(np.fft.fft(centred, axis=axis)) ** 2
    covariance = np.fft.ifft(power, axis=axis).real.mean(axis=1 - axis)
    return np.interp(0.5, (covariance / covariance[0])[20::-1], np.arange(20, -1, -1)) * spacing_mm


def test_speckle_of_homogeneous_tissue_has_the_mean_to_spread_ratio_of_rayleigh():
    ratios = [e.mean() / e.std() for e, _ in map(homogeneous_envelope, range(8))]

    assert np.mean(ratios) == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.02)  # 1.913


@pytest.mark.parametrize("size_px", [ultrasound.MIN_SIZE_PX, 128])
def test_speckle_of_homogeneous_tissue_follows_rayleigh(size_px):
    independent = []
    for seed in range(4):
        envelope, spacing_mm = homogeneous_envelope(seed, size_px)
        # Every one and a half resolution cells: nearer samples are correlated, and KS wants none
        axial = int(np.ceil(1.5 * ultrasound.PULSE_FWHM_MM / spacing_mm))
        lateral = int(np.ceil(1.5 * ultrasound.BEAM_FWHM_MM / spacing_mm))
        independent.extend(envelope[::axial, ::lateral].ravel())

    rayleigh = stats.kstest(independent, stats.rayleigh(scale=np.sqrt(0.5)).cdf)
    gaussian = stats.kstest(independent, stats.norm(np.mean(independent), np.std(independent)).cdf)

    assert rayleigh.pvalue > 0.05
    assert gaussian.pvalue < 1e-3  # there are samples enough to tell the two apart


def test_power_of_the_envelope_is_the_square_of_the_reflectivity():
    amplitude = np.repeat([0.5, 2.0], 128)[:, None] * np.ones((256, 256))

    envelope = speckle_envelope(np.random.default_rng(1), amplitude)

    assert (envelope[:110] ** 2).mean() == pytest.approx(0.25, rel=0.1)
    assert (envelope[146:] ** 2).mean() == pytest.approx(4.0, rel=0.1)


def test_grain_is_wider_than_deep():
    envelope, spacing_mm = homogeneous_envelope(3)

    axial_mm = correlation_length_mm(envelope, 0, spacing_mm)
    lateral_mm = correlation_length_mm(envelope, 1, spacing_mm)

    expected = ultrasound.BEAM_FWHM_MM / ultrasound.PULSE_FWHM_MM
    assert lateral_mm / axial_mm == pytest.approx(expected, rel=0.15)


# --- images and masks


def test_images_and_masks_are_8_bit_and_masks_hold_only_0_and_255():
    images, masks = zip(*(render(np.random.default_rng(i), SPEC) for i in range(20)), strict=True)

    assert (
        {image.dtype for image in images} == {mask.dtype for mask in masks} == {np.dtype("uint8")}
    )
    assert {image.shape for image in (*images, *masks)} == {(SPEC.size_px, SPEC.size_px)}
    assert set(np.unique(masks)) == {0, 255}


def test_images_use_the_range_of_grey_and_seldom_saturate(training_set):
    images, _ = training_set

    assert 90 < images.mean() < 160
    assert (images == 0).mean() < 0.02
    assert (images == 255).mean() < 0.02


def test_the_same_seed_gives_the_same_image_and_another_seed_another():
    first, again = (render(image_rng(0, "train", 7), SPEC) for _ in range(2))
    others = [render(image_rng(*key), SPEC) for key in ((1, "train", 7), (0, "test", 7))]

    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(first[0], other[0]) for other in others)


def test_pixels_have_not_changed_since_this_version():
    """Means of a 4 × 4 raster: a change needs a new VERSION, or old and new trees get mixed."""
    image, mask = render(image_rng(0, "train", 0), SPEC)

    raster = image.reshape(4, 16, 4, 16).mean(axis=(1, 3))

    assert ultrasound.VERSION == 1
    # half a grey level: another CPU's last digit may flip a pixel, no more
    np.testing.assert_allclose(raster, RASTER_OF_VERSION_1, atol=0.5)
    assert int((mask > 0).sum()) == pytest.approx(LESION_PX_OF_VERSION_1, abs=2)


def test_lesions_are_darker_than_the_tissue_around_them(training_set):
    differences = []
    for image, mask in zip(*training_set, strict=True):
        if mask.any():
            around = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > mask
            differences.append(image[around].mean() - image[mask].mean())

    assert np.mean(differences) > 25  # grey levels
    assert np.mean(np.array(differences) > 0) > 0.95


def test_lesions_vary_in_size_and_none_fills_the_image(training_set):
    shares = training_set[1].mean((1, 2))
    shares = shares[shares > 0]

    low, median, high = np.percentile(shares, [5, 50, 95])
    assert 0.01 < low < 0.035
    assert 0.04 < median < 0.09
    assert 0.1 < high < 0.2
    assert shares.max() < 0.3


def test_about_one_image_in_ten_has_no_lesion(training_set):
    test_masks = [render(image_rng(SPEC.seed, "test", i), SPEC)[1] for i in range(SPEC.num_test)]

    assert 0.08 <= np.mean(~training_set[1].any((1, 2))) <= 0.15
    assert 0.06 <= np.mean([not mask.any() for mask in test_masks]) <= 0.17  # 4 to 10 of 64


def test_predicting_background_everywhere_scores_below_0_3_in_both_dices(training_set):
    true = training_set[1]
    nothing = np.zeros_like(true)

    assert pooled_dice(nothing, true) == 0
    assert per_image_dice(nothing, true) < 0.3


def test_thresholds_score_poorly(training_set):
    images, true = training_set
    dark = cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU
    smooth = np.stack([cv2.GaussianBlur(image, (0, 0), 2.0) for image in images])
    otsu = np.stack([cv2.threshold(image, 0, 255, dark)[1] > 0 for image in smooth])
    best_fixed = max(pooled_dice(smooth < level, true) for level in range(10, 250, 5))

    assert pooled_dice(otsu, true) < 0.5
    assert best_fixed < 0.5


def test_lesions_are_not_always_at_the_same_place(training_set):
    true = training_set[1]
    atlas = true.mean(0)

    best = max(
        pooled_dice(np.broadcast_to(atlas > level, true.shape), true)
        for level in np.linspace(0.0, atlas.max(), 20, endpoint=False)
    )

    assert best < 0.5


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size_px": 32}, "size_px"),
        ({"num_train": 0}, "num_train"),
        ({"num_test": 0}, "num_test"),
        ({"empty_share": 1.5}, "empty_share"),
        ({"blurred_share": -0.1}, "blurred_share"),
    ],
)
def test_a_spec_that_cannot_be_rendered_is_refused_by_name(changes, named):
    with pytest.raises(ValueError, match=named):
        UltrasoundSpec(**changes)


def test_a_spec_without_empty_masks_or_with_nothing_else_is_obeyed():
    for share, expected in ((0.0, {True}), (1.0, {False})):
        spec = replace(SPEC, empty_share=share)
        masks = [render(image_rng(0, "train", i), spec)[1] for i in range(12)]
        assert {bool(mask.any()) for mask in masks} == expected


# --- the folder


def snapshot(folder):
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def out_dir(tmp_path):
    return tmp_path / "with 'quotes' and blanks" / "demo"


def test_files_read_back_as_the_rendered_pixels(out_dir):
    generate(out_dir, TINY)

    for split, num_images in (("train", 3), ("test", 2)):
        names = [f"us_{i:03d}.png" for i in range(num_images)]
        for kind in ("inputs", "targets"):
            assert sorted(p.name for p in (out_dir / split / kind).iterdir()) == names
        for index, name in enumerate(names):
            image, mask = render(image_rng(TINY.seed, split, index), TINY)
            for kind, pixels in (("inputs", image), ("targets", mask)):
                data = np.fromfile(out_dir / split / kind / name, np.uint8)
                np.testing.assert_array_equal(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), pixels)


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path):
    generate(tmp_path / "few", TINY)
    generate(tmp_path / "more", replace(TINY, num_train=5, num_test=3))

    for path in (tmp_path / "few").rglob("*.png"):
        twin = tmp_path / "more" / path.relative_to(tmp_path / "few")
        assert path.read_bytes() == twin.read_bytes()


def test_a_finished_tree_is_left_as_it_is(out_dir):
    generate(out_dir, TINY)
    before = snapshot(out_dir)

    generate(out_dir, TINY)

    assert snapshot(out_dir) == before
    assert [path.name for path in out_dir.parent.iterdir()] == ["demo"]  # nothing left aside


def test_others_may_read_the_tree(out_dir):
    """A container runs under another user."""
    generate(out_dir, TINY)

    assert stat.S_IMODE(out_dir.stat().st_mode) == 0o755


@pytest.mark.parametrize("damage", ["another spec", "another version", "no stamp", "image lost"])
def test_a_tree_that_is_not_this_very_data_set_is_refused_and_kept(out_dir, damage):
    generate(out_dir, TINY)
    spec = TINY
    stamp = out_dir / ultrasound.STAMP
    if damage == "another spec":
        spec = replace(TINY, seed=1)
    elif damage == "another version":
        stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "version": 0}))
    elif damage == "no stamp":
        stamp.unlink()
    else:
        (out_dir / "test" / "targets" / "us_001.png").unlink()
    before = snapshot(out_dir)

    with pytest.raises(DataError) as caught:
        generate(out_dir, spec)

    assert str(out_dir) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert snapshot(out_dir) == before


def test_an_empty_folder_is_filled(out_dir):
    out_dir.mkdir(parents=True)

    generate(out_dir, TINY)

    assert len(list(out_dir.rglob("*.png"))) == 10


def test_a_file_in_the_folders_place_is_refused_and_kept(tmp_path):
    (tmp_path / "demo").write_text("mine")

    with pytest.raises(DataError, match="demo"):
        generate(tmp_path / "demo", TINY)

    assert (tmp_path / "demo").read_text() == "mine"


def test_somebody_elses_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(DataError, match="move it away"):
        generate(tmp_path, TINY)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_failure_half_way_leaves_nothing_behind(out_dir, monkeypatch):
    def fail_on_the_test_split(rng, spec):
        fail_on_the_test_split.calls += 1
        if fail_on_the_test_split.calls > 3:
            raise OSError("disk full")
        return render(rng, spec)

    fail_on_the_test_split.calls = 0
    monkeypatch.setattr(ultrasound, "render", fail_on_the_test_split)

    with pytest.raises(OSError, match="disk full"):
        generate(out_dir, TINY)

    assert list(out_dir.parent.iterdir()) == []


@pytest.mark.parametrize("rival_spec", [TINY, replace(TINY, seed=1)])
def test_of_two_writers_one_wins_and_only_another_spec_is_an_error(
    out_dir, monkeypatch, rival_spec
):
    write_tree = ultrasound._write_tree

    def overtaken(folder: Path, spec: UltrasoundSpec):
        write_tree(folder, spec)
        write_tree(out_dir, rival_spec)  # while we were drawing

    monkeypatch.setattr(ultrasound, "_write_tree", overtaken)
    if rival_spec == TINY:
        generate(out_dir, TINY)
    else:
        with pytest.raises(DataError, match="demo"):
            generate(out_dir, TINY)

    assert json.loads((out_dir / ultrasound.STAMP).read_text())["seed"] == rival_spec.seed
    assert [path.name for path in out_dir.parent.iterdir()] == ["demo"]
