"""Random warps and tones are drawn by seed, move images and masks together, and warp as OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from worker import Worker, write_png

from trainer.config import Data, parse_config
from trainer.data.augmentation import draw_augmentation
from trainer.data.transforms import Steps, plan_transforms
from trainer.errors import ConfigError
from trainer.loading.augment import DrawnAugmentation, augment

SIZE = (24, 40)
WARPS = [
    {"jitter_crop": 0.3},
    {"random_zoom": 0.4},
    {"random_rotate": 30},
    {"random_affine": 0.1},
]
NAMES = ["jitter_crop", "random_zoom", "random_rotate", "random_affine"]


def steps_of(*transforms: dict, **data: object) -> Steps:
    section = {"input_path": "a", "target_path": "b", "transforms": list(transforms), **data}
    config = parse_config(
        {"neural_network": {"layers": "n", "data": section, "loss": {"function": "BCE"}}}
    )
    return plan_transforms(config.data)[0]


def draw(steps: Steps, *, seed: int = 0, epoch: int = 1, num_samples: int = 50):
    return draw_augmentation(steps, num_samples=num_samples, size_HW=SIZE, seed=seed, epoch=epoch)


def smooth_images(number: int, channels: int = 1) -> np.ndarray:
    """Return (N, H, W, C) images in [0, 1] that are nearly linear from pixel to pixel."""
    rng = np.random.default_rng(0)
    noise = rng.random((number, *SIZE, channels)).astype(np.float32)
    blurred = [cv2.GaussianBlur(image, (0, 0), 3).reshape(*SIZE, channels) for image in noise]
    return np.clip((np.stack(blurred) - 0.5) * 4 + 0.5, 0, 1)


def apply(images_NHWC: np.ndarray, steps: Steps, targets: np.ndarray | None = None, **how: int):
    drawn = draw(steps, num_samples=len(images_NHWC), **how)
    inputs = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2)
    return drawn, *augment(
        inputs,
        None if targets is None else torch.from_numpy(targets),
        DrawnAugmentation.on(torch.device("cpu"), drawn),
        steps,
    )


@pytest.mark.parametrize("transform", WARPS, ids=NAMES)
def test_warp_is_the_one_that_opencv_makes_of_the_same_matrix(transform: dict) -> None:
    images = smooth_images(6)
    drawn, warped, _ = apply(images, steps_of(transform))
    height, width = SIZE
    # From pixels to -1..1 and back: a pixel's centre lies half a pixel from its edge.
    to_unit = np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])
    for image, found, warp in zip(images, warped, drawn.warps, strict=True):
        matrix = np.linalg.inv(to_unit) @ np.vstack([warp, [0, 0, 1]]) @ to_unit
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        beyond = float(image.mean()) if "random_affine" in transform else 0.0
        expected = cv2.warpAffine(
            image[:, :, 0], matrix[:2], (width, height), flags=flags, borderValue=beyond
        )
        difference = np.abs(found[0].numpy() - expected)
        # OpenCV rounds places to 1/32 pixel; at the border it blends another way.
        assert np.percentile(difference, 97) < 0.02


def test_rotation_is_opencv_s_by_the_angle_in_degrees() -> None:
    steps = steps_of({"random_rotate": 30})
    drawn = draw(steps)
    angle = np.rad2deg(np.arccos(drawn.warps[:, 0, 0]))
    assert 20 < angle.max() <= 30
    images = smooth_images(1)
    one = drawn[np.array([int(angle.argmax())])]
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2)
    turned, _ = augment(inputs, None, DrawnAugmentation.on(torch.device("cpu"), one), steps)
    height, width = SIZE
    signed = -np.rad2deg(np.arcsin(one.warps[0, 0, 1] * width / height))
    middle = ((width - 1) / 2, (height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(middle, signed, 1)
    expected = cv2.warpAffine(images[0, :, :, 0], matrix, (width, height))
    assert np.percentile(np.abs(turned[0, 0].numpy() - expected), 97) < 0.02


def test_crops_stay_inside_the_image_and_within_their_bound() -> None:
    for name, most in (("jitter_crop", 0.3), ("random_zoom", 0.4)):
        warps = draw(steps_of({name: most}), num_samples=2000).warps
        scale = warps[:, [0, 1], [0, 1]]
        assert 1 - most <= scale.min() < 1 - 0.95 * most
        assert 1 - 0.05 * most < scale.max() <= 1
        corners = np.abs(warps[:, :, 2]) + scale
        assert corners.max() <= 1 + 1e-9
        assert (warps[:, 0, 1] == 0).all()
        if name == "random_zoom":
            assert (scale[:, 0] == scale[:, 1]).all()
            assert (warps[:, :, 2] == 0).all()
        else:
            assert np.abs(warps[:, :, 2]).max() > 0.8 * most


def test_affine_noise_is_normal_around_the_identity() -> None:
    warps = draw(steps_of({"random_affine": 0.1}), num_samples=5000).warps
    noise = warps - np.eye(3)[:2]
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.006)
    np.testing.assert_allclose(noise.std(0), 0.1, atol=0.006)


def test_two_warps_are_the_second_of_the_first_in_one_resampling() -> None:
    crop, turn = {"jitter_crop": 0.2}, {"random_rotate": 20}
    images = smooth_images(4)
    drawn, both, _ = apply(images, steps_of(crop, turn))
    first = draw(steps_of(crop), num_samples=4).warps
    pad = np.tile([[[0.0, 0.0, 1.0]]], (4, 1, 1))
    second = np.linalg.inv(np.concatenate([first, pad], 1)) @ np.concatenate([drawn.warps, pad], 1)
    height, width = SIZE
    stretch = np.diag([width, height, 1.0])
    turned = stretch @ second @ np.linalg.inv(stretch)
    np.testing.assert_allclose(
        turned[:, :2, :2] @ turned[:, :2, :2].transpose(0, 2, 1), np.tile(np.eye(2), (4, 1, 1)),
        atol=1e-9,
    )  # fmt: skip
    assert both.shape == (4, 1, *SIZE)


@pytest.mark.parametrize("transform", [*WARPS, {"random_horizontal_flip": 0.5}])
def test_masks_move_with_their_images_and_keep_their_values(transform: dict) -> None:
    # A wide ramp: its level sets are the classes, so a moved mask is the moved image's.
    ramp = np.linspace(0.1, 0.9, SIZE[1], dtype=np.float32)[None, :, None]
    images = np.broadcast_to(ramp, (20, *SIZE, 1)).copy()
    masks = (images[..., 0] > 0.5).astype(np.uint8) * 3
    _, moved, targets = apply(images, steps_of(transform), masks)
    assert targets.dtype == torch.uint8
    assert set(targets.unique().tolist()) <= {0, 3}
    clear = (moved[:, 0] - 0.5).abs() > 0.03  # off the edge, where linear and nearest differ
    inside = moved[:, 0] > 0.05
    agree = (targets == 3) == (moved[:, 0] > 0.5)
    assert agree[clear & inside].float().mean() > 0.98


def test_what_comes_from_beyond_the_border_is_black_and_background() -> None:
    images = np.ones((30, *SIZE, 1), np.float32)
    masks = np.ones((30, *SIZE), np.uint8)
    _, moved, targets = apply(images, steps_of({"random_rotate": 90}), masks)
    assert 0 < (targets == 0).float().mean() < 0.6
    assert moved[:, 0][targets == 0].max() < 0.6
    assert moved[:, 0][targets == 1].min() > 0.4


def test_random_affine_moves_images_as_the_chest_x_ray_course_does() -> None:
    # The course's images have mean 0 and variance 1, and torch's grid_sample brings zeros.
    images = smooth_images(20, channels=2) * 0.4 + 0.5
    masks = np.ones((20, *SIZE), np.uint8)
    drawn, moved, targets = apply(images, steps_of({"random_affine": 0.3}), masks)
    mean, std = images.mean((1, 2), keepdims=True), images.std((1, 2), keepdims=True)
    its_own = torch.from_numpy((images - mean) / std).permute(0, 3, 1, 2)
    theta = torch.from_numpy(drawn.warps.astype(np.float32))
    grid = F.affine_grid(theta, list(its_own.shape), align_corners=False)
    expected = F.grid_sample(its_own, grid, align_corners=False).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(moved.permute(0, 2, 3, 1), expected * std + mean, atol=1e-5)
    assert (targets == 0).float().mean() > 0.05


def test_zero_leaves_the_images_as_they_are() -> None:
    images = smooth_images(3)
    nothing = [{name: 0} for name in NAMES]
    _, moved, _ = apply(images, steps_of(*nothing, {"intensity_jitter": {}}))
    np.testing.assert_allclose(moved.permute(0, 2, 3, 1), images, atol=1e-5)


def test_tones_change_inputs_alone_within_their_bounds() -> None:
    tone = {"intensity_jitter": {"brightness": 0.2, "contrast": 0.5}}
    images = smooth_images(40, channels=3) * 0.4 + 0.3
    masks = np.ones((40, *SIZE), np.uint8)
    drawn, moved, targets = apply(images, steps_of(tone), masks)
    assert (targets.numpy() == masks).all()
    assert np.abs(drawn.tones[:, 0]).max() <= 0.2
    assert np.abs(drawn.tones[:, 1] - 1).max() <= 0.5
    mean = images.mean((1, 2, 3), keepdims=True)
    brightness, contrast = (drawn.tones[:, i].reshape(-1, 1, 1, 1) for i in (0, 1))
    expected = np.clip((images - mean) * contrast + mean + brightness, 0, 1)
    np.testing.assert_allclose(moved.permute(0, 2, 3, 1), expected, atol=1e-5)
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_draws_depend_on_seed_epoch_and_sample_alone() -> None:
    steps = steps_of(*WARPS, {"intensity_jitter": {"brightness": 0.1}})
    first = draw(steps, seed=1, epoch=1)
    again = draw(steps, seed=1, epoch=1)
    assert (first.warps == again.warps).all()
    assert (first.tones == again.tones).all()
    for other in (draw(steps, seed=1, epoch=2), draw(steps, seed=2, epoch=1)):
        assert (first.warps != other.warps).any(axis=(1, 2)).all()
        assert (first.tones[:, 0] != other.tones[:, 0]).all()
    assert len(np.unique(first.warps.round(12), axis=0)) == 50
    picked = np.array([7, 3])
    assert (first[picked].warps == first.warps[picked]).all()


@pytest.mark.parametrize("name", NAMES)
def test_warp_of_images_alone_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.input_transforms\[0\]: {name} must move"):
        steps_of(input_transforms=[{name: 0.1}])


def test_tones_may_stand_among_the_inputs_own_transforms() -> None:
    section = {"intensity_jitter": {"contrast": 0.1}}
    assert len(steps_of(input_transforms=[section]).tones) == 1


@pytest.mark.parametrize(
    "transform",
    [
        {"jitter_crop": 1.0},
        {"random_zoom": -0.1},
        {"random_rotate": 200},
        {"random_affine": -1},
        {"intensity_jitter": {"contrast": 1.0}},
        {"intensity_jitter": {"hue": 0.1}},
    ],
)
def test_amount_out_of_range_is_refused(transform: dict) -> None:
    (name,) = transform
    with pytest.raises(ConfigError, match=rf"data\.transforms\[0\]\.{name}"):
        steps_of(transform)


def test_training_takes_every_random_transform_and_repeats(worker: Worker, tmp_path: Path) -> None:
    transforms = [
        {"resize": [32, 32]}, *WARPS, {"intensity_jitter": {"brightness": 0.1, "contrast": 0.2}}
    ]  # fmt: skip
    first, again, plain = (
        worker(num_epochs=2, data__transforms=entries).succeeded()
        for entries in (transforms, transforms, transforms[:1])
    )
    assert first.losses == again.losses
    assert first.losses != plain.losses
    assert "random_rotate         : 30.0\n" in first.out


def test_continuous_targets_are_warped_too(tmp_path: Path, worker: Worker) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for index in range(3):
            image = rng.integers(0, 256, (32, 32))
            for folder in ("inputs", "targets"):
                write_png(tmp_path / "c" / part / folder / f"{index}.png", image)
    result = worker(
        data=tmp_path / "c", data__target_is_mask=False, loss={"function": "MSE"},
        data__transforms=[{"random_rotate": 20}],
    ).succeeded()  # fmt: skip
    assert "continuous" in result.out


def test_every_transform_of_the_config_is_carried_out_or_refused() -> None:
    from trainer.config import Transform
    from trainer.data.transforms import FLIPS, READING
    from trainer.data.transforms import WARPS as KNOWN

    known = {"normalize", "intensity_jitter", "random_patches", *READING, *FLIPS, *KNOWN}
    assert set(Transform.model_fields) == known
    assert Data.model_fields["transforms"].default == ()
