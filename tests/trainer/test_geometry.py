"""Crops, rotation and colours at reading are OpenCV's, and predictions find their way back."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import data_section
from test_transforms import load, whole
from worker import Worker, write_pairs, write_png

from trainer.cli import main
from trainer.config.data import COLOR_CODES
from trainer.data.geometry import ReadingStep, read_through, undo
from trainer.data.transforms import CHANNELS
from trainer.errors import ConfigError, DataError
from trainer.networks import network_json


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images with noise in colour, and masks of {0, 1, 2}."""
    root = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(1)
    for index in range(4):
        write_png(root / f"train/inputs/{index}.png", rng.integers(0, 256, (21, 30, 3)))
        write_png(root / f"train/targets/{index}.png", rng.integers(0, 3, (21, 30)))
    return root


def rotated(image: np.ndarray, degrees: float, flags: int, fill: int = 0) -> np.ndarray:
    """Rotate about the middle: `flags` as OpenCV has them."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    return cv2.warpAffine(image, matrix, (width, height), flags=flags, borderValue=(fill,) * 3)


def test_list_is_carried_out_in_its_order_as_opencv_does(pairs: Path) -> None:
    steps = [{"center_crop": [16, 24]}, {"rotate": 25}, {"resize": [32, 40]}]
    data = load(pairs, transforms=[*steps, {"random_horizontal_flip": 1}])
    for index, name in enumerate(data.train.names):
        for folder, found, flags in (
            ("inputs", data.train.inputs_NHWC[index], cv2.INTER_LINEAR),
            ("targets", data.train.targets_NHW[index], cv2.INTER_NEAREST),
        ):
            image = cv2.imread(str(pairs / "train" / folder / name), cv2.IMREAD_UNCHANGED)
            expected = rotated(image[2:18, 3:27], -25, flags)
            exact = cv2.INTER_NEAREST_EXACT if folder == "targets" else flags
            expected = cv2.resize(expected, (40, 32), interpolation=exact)
            np.testing.assert_array_equal(found, expected)


def test_another_order_gives_another_image(pairs: Path) -> None:
    steps = [{"rotate": 25}, {"center_crop": [16, 16]}]
    one, other = (load(pairs, transforms=s).train.inputs_NHWC for s in (steps, steps[::-1]))
    assert one.shape == other.shape
    assert (one != other).any()


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ({}, cv2.ROTATE_90_CLOCKWISE),  # as the reference engine's documentation says
        ({"rotate_direction": "clockwise"}, cv2.ROTATE_90_CLOCKWISE),
        ({"rotate_direction": "counterclockwise"}, cv2.ROTATE_90_COUNTERCLOCKWISE),
    ],
)
def test_quarter_turn_is_clockwise_and_exact(
    tmp_path: Path, direction: dict, expected: int
) -> None:
    mask = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
    write_pairs(tmp_path, [mask])
    data = load(tmp_path, transforms=[{"rotate": 90}], **direction)
    np.testing.assert_array_equal(data.train.targets_NHW[0], cv2.rotate(mask, expected))


def test_rotation_shows_the_background_that_mask_values_names(tmp_path: Path) -> None:
    mask = np.full((16, 16), 7, np.uint8)
    mask[4:12, 4:12] = 0
    write_pairs(tmp_path, [mask])
    data = load(tmp_path, transforms=[{"rotate": 45}], mask_values=[7, 0])
    assert data.train.targets_NHW[0, 0, 0] == 0  # 7 is class 0
    expected = rotated(mask, -45, cv2.INTER_NEAREST, fill=7)
    np.testing.assert_array_equal(data.train.targets_NHW[0], expected == 0)


def test_crop_larger_than_an_image_is_refused_by_file(pairs: Path) -> None:
    with pytest.raises(DataError, match=r"0\.png: center_crop \[22, 8\] is larger than .*21x30"):
        load(pairs, transforms=[{"center_crop": [22, 8]}])


@pytest.mark.parametrize("key", ["input_transforms", "target_transforms"])
@pytest.mark.parametrize("step", [{"rotate": 3}, {"center_crop": [8, 8]}])
def test_what_moves_pixels_moves_both(pairs: Path, key: str, step: dict) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{key}\[0\]: \w+ must move inputs and masks"):
        load(pairs, **{key: [step]})


# --- colours ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", COLOR_CODES)
def test_colours_are_converted_as_opencv_does(code: str) -> None:
    source, target = (CHANNELS.get(name, 3) for name in code.removesuffix("_FULL").split("2"))
    image = np.random.default_rng(0).integers(0, 256, (6, 7, source), np.uint8)
    found = read_through(image, (ReadingStep("convert_color", code),), nearest=False)
    expected = cv2.cvtColor(image, getattr(cv2, f"COLOR_{code}")).reshape(6, 7, -1)
    assert found.shape == (6, 7, target)
    np.testing.assert_array_equal(found, expected)


def test_conversion_changes_the_number_of_channels_and_leaves_masks_alone(pairs: Path) -> None:
    steps = [{"convert_color": "BGR2HSV"}, {"convert_color": "hsv2bgr"}]
    assert whole(load(pairs, transforms=steps)).inputs_NCHW.shape == (4, 3, 21, 30)
    gray = load(pairs, transforms=[{"convert_color": "BGR2GRAY"}])
    image = cv2.imread(str(pairs / "train/inputs/0.png"))
    np.testing.assert_array_equal(
        gray.train.inputs_NHWC[0, :, :, 0], cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    )
    np.testing.assert_array_equal(gray.train.targets_NHW, load(pairs).train.targets_NHW)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"transforms": [{"convert_color": "BGR2GRAY"}, {"convert_color": "BGR2RGB"}]},
            r"data\.transforms\[1\]\.convert_color: BGR2RGB takes 3 .* have 1 there",
        ),
        (
            {"grayscale": True, "input_transforms": [{"convert_color": "BGR2RGB"}]},
            r"data\.input_transforms\[0\]\.convert_color: .* data\.grayscale",
        ),
        (
            {"target_transforms": [{"convert_color": "BGR2GRAY"}]},
            r"data\.target_transforms\[0\]\.convert_color: masks hold classes, no colours",
        ),
        ({"transforms": [{"convert_color": "BGR2RGBB"}]}, "did you mean 'BGR2RGB'"),
    ],
)
def test_conversion_that_does_not_fit_is_refused(pairs: Path, changes, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(pairs, **changes)


def test_colours_that_opencv_has_for_8_bits_only_are_refused_by_file(tmp_path: Path) -> None:
    write_pairs(tmp_path, [np.eye(8, dtype=np.uint8)])
    write_png(tmp_path / "train/inputs/00.png", np.zeros((8, 8, 3)), np.uint16)
    with pytest.raises(
        DataError, match=r"00\.png: convert_color BGR2HSV: .* 8x8x3 and 16 bits"
    ) as e:
        load(tmp_path, transforms=[{"convert_color": "BGR2HSV"}])
    assert "\n" not in str(e.value)


def test_cache_tells_geometry_apart(worker: Worker, tmp_path: Path) -> None:
    runs = (
        [{"resize": [32, 32]}, {"rotate": 30}],
        [{"rotate": 30}, {"resize": [32, 32]}],
        [{"resize": [32, 32]}, {"convert_color": "GRAY2BGR"}],
    )
    for transforms in runs:
        result = worker(data__cache=str(tmp_path / "cache"), data__transforms=transforms)
        assert "decoded into" in result.succeeded().out
    assert "found in" in worker(data__cache=str(tmp_path / "cache"), data__transforms=runs[0]).out


# --- back to the image ------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("resize"), st.tuples(st.integers(30, 70), st.integers(30, 70))),
        st.tuples(st.just("center_crop"), st.tuples(st.integers(26, 29), st.integers(26, 29))),
        st.tuples(st.just("rotate"), st.floats(-180, 180)),
    ),
    max_size=3,
)


@settings(max_examples=50, deadline=None)
@given(STEPS, st.tuples(st.integers(30, 60), st.integers(30, 60)))
def test_undo_brings_a_smooth_image_back_to_its_place(entries, size) -> None:
    steps = tuple(ReadingStep(*entry) for entry in entries)
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
    image = rows * 3 + columns + 10  # a plane: linear interpolation loses nothing of it
    try:
        moved = read_through(image, steps, nearest=False)
    except DataError:  # a second crop that is larger than the first
        return
    back, inside = undo(moved, steps, size)
    assert back.shape == inside.shape == size
    # At its edges, an area shows the neighbourhood's black, or what enlarging repeats.
    core = cv2.erode(inside.astype(np.uint8), np.ones((13, 13)), borderValue=0) > 0
    np.testing.assert_allclose(back[core], image[core], atol=1.5)


def test_predicted_masks_lie_where_the_image_has_them(
    discs: Path, tmp_path: Path, monkeypatch
) -> None:
    """A network that passes the image on: its mask must be the image's bright part, in place."""
    monkeypatch.chdir(tmp_path)
    layers = network_json("unet:width=4,depth=1", (24, 24, 1), 1)
    del layers["config"]["layers"][1:]
    copy = {"class_name": "Activation", "name": "out", "config": {"name": "out"}}
    copy["config"]["activation"] = "linear"
    copy["inbound_nodes"] = [[[layers["config"]["layers"][0]["name"], 0, 0, {}]]]
    layers["config"]["layers"].append(copy)
    layers["config"]["output_layers"] = [["out", 0, 0]]
    (tmp_path / "layers.json").write_text(json.dumps(layers))
    transforms = [{"center_crop": [40, 40]}, {"rotate": 90}, {"resize": [24, 24]}]
    section = data_section(discs, transforms=transforms)
    (tmp_path / "config.json").write_text(
        json.dumps({"neural_network": {"layers": "layers.json", "data": section,
                                       "loss": {"function": "MSE"}}})
    )  # fmt: skip
    image = np.zeros((50, 70), np.uint8)
    image[12:28, 22:30], image[:3, :3], image[20:24, 60:70] = 255, 255, 255  # two are cut off
    write_png(tmp_path / "in/a.png", image)
    assert main(["--predict", ".", "--images", "in", "--out", "out"]) == 0
    with h5py.File(tmp_path / "out/output_1.h5") as file:
        assert file["a.png"].shape == (1, 24, 24)
    mask = cv2.imread(str(tmp_path / "out/masks/a.png"), cv2.IMREAD_UNCHANGED)
    expected = image.copy()
    expected[:3, :3], expected[20:24, 60:70] = 0, 0
    assert mask.shape == image.shape
    disagree = (mask > 0) != (expected > 0)
    outline = cv2.dilate(expected, np.ones((5, 5))) != cv2.erode(expected, np.ones((5, 5)))
    assert not (disagree & ~outline).any()
    drawn = cv2.imread(str(tmp_path / "out/overlays/a.png"))
    assert (drawn[:3, :3] == 255).all()
