"""Images and masks are found, paired by name and read as stored; the rest is refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import REAL, require
from worker import write_png

from trainer.data.images import list_samples, read_image, read_mask
from trainer.errors import DataError

MASK = np.array([[0, 1, 2, 2], [0, 0, 1, 255]], np.uint8)


def folders(tmp_path: Path, inputs: list[str], targets: list[str]) -> tuple[Path, Path]:
    for folder, names in (("inputs", inputs), ("targets", targets)):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in names:
            (tmp_path / folder / name).write_bytes(b"")
    return tmp_path / "inputs", tmp_path / "targets"


def paired(tmp_path: Path, inputs: list[str], targets: list[str]) -> list[tuple[str, str]]:
    pairs = list_samples(*folders(tmp_path, inputs, targets), "data.")
    return [(pair.name, pair.target.name) for pair in pairs if pair.target]


def not_paired(tmp_path: Path, inputs: list[str], targets: list[str]) -> str:
    with pytest.raises(DataError) as caught:
        list_samples(*folders(tmp_path, inputs, targets), "data.")
    return str(caught.value)


@pytest.mark.parametrize("ending", ["", "_mask", "_segmentation", "_seg", "_gt"])
@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif"])
def test_mask_is_found_by_name_whatever_its_ending_and_suffix(tmp_path, ending, suffix) -> None:
    names = ["b 1", "a"]
    found = paired(tmp_path, [f"{n}.jpg" for n in names], [n + ending + suffix for n in names])
    assert found == [("a.jpg", f"a{ending}{suffix}"), ("b 1.jpg", f"b 1{ending}{suffix}")]


def test_exact_name_goes_before_an_ending(tmp_path: Path) -> None:
    found = paired(tmp_path, ["a.png", "a_mask.png"], ["a.png", "a_mask.png"])
    assert found == [("a.png", "a.png"), ("a_mask.png", "a_mask.png")]


def test_hidden_and_other_files_and_spare_masks_are_left_alone(tmp_path: Path) -> None:
    found = paired(tmp_path, ["a.png", ".b.png", "list.txt"], ["a.png", "c.png", ".DS_Store"])
    assert found == [("a.png", "a.png")]


def test_first_ten_images_without_mask_are_shown_and_all_counted(tmp_path: Path) -> None:
    inputs = [f"{n:02d}.png" for n in range(15)]
    message = not_paired(tmp_path, inputs, ["03.png", "extra.png"])
    shown = [name for name in inputs if name in message]
    assert shown == [name for name in inputs if name != "03.png"][:10]
    assert "14 of 15 images" in message
    assert "(14 in all)" in message


def test_two_masks_for_one_image_are_refused(tmp_path: Path) -> None:
    message = not_paired(tmp_path, ["a.png"], ["a.png", "a.tif"])
    assert message.startswith("a.png: several masks: a.png, a.tif")


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    message = not_paired(tmp_path, ["a.png", "a.jpg"], ["a.png"])
    assert "a.jpg and a.png" in message
    assert "rename one" in message


def test_absent_and_empty_folders_are_refused_with_their_key(tmp_path: Path) -> None:
    inputs, targets = folders(tmp_path, ["a.png"], ["readme.txt"])
    with pytest.raises(DataError, match=r"data\.target_path: no image in .*expected \.png, \.jpg"):
        list_samples(inputs, targets, "data.")
    with pytest.raises(DataError, match=r"data\.test_input_path: no such folder: .*nowhere"):
        list_samples(tmp_path / "nowhere", targets, "data.test_")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_image_is_read_as_stored_in_bgr_order(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    path = write_png(tmp_path / f"my image{suffix}", pixels)
    assert (read_image(path, gray=False) == pixels).all()
    assert Image.open(path).convert("RGB").getpixel((0, 0)) == tuple(pixels[0, 0, ::-1])


def test_gray_option_weighs_colours_as_opencv_does(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    path = write_png(tmp_path / "a.png", pixels)
    gray = read_image(path, gray=True)
    assert gray.shape == (3, 4, 1)
    expected = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    assert np.abs(gray[:, :, 0].astype(int) - expected).max() <= 1  # the decoder's own rounding


def test_gray_file_has_three_equal_channels_unless_read_as_gray(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", MASK)
    assert (read_image(path, gray=False) == MASK[:, :, None].repeat(3, 2)).all()
    assert (read_image(path, gray=True)[:, :, 0] == MASK).all()


def test_alpha_of_an_image_is_dropped(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4), np.uint8)
    assert read_image(write_png(tmp_path / "a.png", pixels), gray=False).shape == (3, 4, 3)


def test_16_bits_stay_16_bits(tmp_path: Path) -> None:
    pixels = np.array([[0, 70, 40_000]], np.uint16)
    path = write_png(tmp_path / "a.png", pixels, np.uint16)
    assert (read_image(path, gray=True)[:, :, 0] == pixels).all()
    assert (read_mask(path) == pixels).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_mask_keeps_its_values_in_gray_rgb_and_rgba(tmp_path: Path, channels: int) -> None:
    pixels = MASK if channels == 1 else np.dstack([MASK] * 3)
    if channels == 4:
        pixels = np.dstack([pixels, np.full_like(MASK, 255)])
    assert (read_mask(write_png(tmp_path / "m.png", pixels)) == MASK).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_palette_mask_gives_indices_not_colours(tmp_path: Path, suffix: str) -> None:
    image = Image.frombytes("P", (4, 2), MASK.tobytes())
    image.putpalette([value for n in range(256) for value in (n, 255 - n, n // 2)])
    image.save(tmp_path / f"m{suffix}")
    assert (read_mask(tmp_path / f"m{suffix}") == MASK).all()


def test_mask_of_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(MASK > 1).save(tmp_path / "m.png")
    assert (read_mask(tmp_path / "m.png") == (MASK > 1) * 255).all()


def test_gray_mask_with_alpha_keeps_its_values(tmp_path: Path) -> None:
    Image.merge("LA", [Image.fromarray(MASK), Image.new("L", (4, 2), 255)]).save(
        tmp_path / "m.png"
    )
    assert (read_mask(tmp_path / "m.png") == MASK).all()


def test_coloured_mask_is_refused(tmp_path: Path) -> None:
    path = write_png(tmp_path / "m.png", np.dstack([MASK, MASK, MASK // 2]))
    with pytest.raises(DataError, match="the mask is coloured") as caught:
        read_mask(path)
    assert str(path) in str(caught.value)


def whole_png() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.mark.parametrize("content", [b"", b"no image", whole_png()[:20], whole_png()[:60]])
@pytest.mark.parametrize("read", [lambda path: read_image(path, gray=True), read_mask])
def test_broken_image_is_refused_by_name(tmp_path: Path, content: bytes, read) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable image") as caught:
        read(path)
    assert str(path) in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(whole_png())), st.binary(max_size=8))
def test_damaged_image_is_read_or_refused_and_nothing_else(tmp_path_factory, cut, patch) -> None:
    path = tmp_path_factory.mktemp("damaged") / "a.png"
    content = whole_png()
    path.write_bytes(content[:cut] + patch + content[cut + len(patch) :])
    for read in (lambda path: read_image(path, gray=True), read_mask):
        try:
            assert read(path).size > 0
        except DataError as error:
            assert str(path) in str(error)


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    assert cv2.imwrite(str(path), np.zeros((4, 4), np.float32))
    with pytest.raises(DataError, match=r"float32, 1 band .*expected 8 or 16 bits"):
        read_image(path, gray=True)


@pytest.mark.parametrize("read", [lambda path: read_image(path, gray=False), read_mask])
@pytest.mark.parametrize("side", [16_385, 100_000])
def test_image_that_fills_the_memory_is_refused_before_it_does(
    tmp_path: Path, read, side: int, monkeypatch
) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    )
    monkeypatch.setattr(cv2, "imdecode", None)  # is not called
    with pytest.raises(DataError, match=f"{side * side:,} pixels; more than 268,435,456 are"):
        read(tmp_path / "a.png")


def test_large_image_below_the_limit_is_read_without_a_warning(tmp_path: Path) -> None:
    mask = np.zeros((9_500, 9_500), np.uint8)
    path = tmp_path / "a.png"
    Image.frombytes("P", mask.shape, mask.tobytes()).save(path, compress_level=1)
    assert read_mask(path).shape == mask.shape


def test_memory_that_is_short_is_not_taken_for_a_broken_image(tmp_path, monkeypatch) -> None:
    def full(*arguments: object) -> None:
        error = cv2.error("no memory")
        error.code, error.err = cv2.Error.StsNoMem, "Failed to allocate 10 bytes"
        raise error

    monkeypatch.setattr(cv2, "imdecode", full)
    with pytest.raises(MemoryError):
        read_image(write_png(tmp_path / "a.png", MASK), gray=True)


def test_unreadable_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(tmp_path / "a.png", gray=True)


@pytest.mark.parametrize(
    ("inputs", "targets", "number"),
    [
        ("breast_cancer/data/train/inputs", "breast_cancer/data/train/targets", 10),
        ("brain_mri/data/train_image", "brain_mri/data/train_mask", 10),
    ],
)
def test_real_images_pair_and_read(inputs: str, targets: str, number: int) -> None:
    if not (REAL / inputs).is_dir():
        require("data", f"no {REAL / inputs}; set RML_DATA to the folder of the real images")
    pairs = list_samples(REAL / inputs, REAL / targets, "data.")
    assert len(pairs) > number
    for pair in pairs[:number]:
        assert pair.target is not None
        assert read_image(pair.input, gray=True).shape[:2] == read_mask(pair.target).shape
