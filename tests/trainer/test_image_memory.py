"""Images of many pixels, or of one pixel a row, take the memory and time of their pixels."""

import struct
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from trainer.data import bands
from trainer.data.decoding import read_image, read_mask
from trainer.data.headers import read_header
from trainer.data.survey import count_values
from trainer.errors import DataError

SIDE = 2048


def peak_bytes(call, *args, **kwargs):
    """Return what NumPy has held at a time: OpenCV and Pillow allocate by themselves."""
    tracemalloc.start()
    try:
        call(*args, **kwargs)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def palette_image(path, num_colours=3):
    indices = np.arange(SIDE * SIDE, dtype=np.uint32).reshape(SIDE, SIDE) // 977 % num_colours
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette([value for index in range(num_colours) for value in (index, 2 * index, 9)])
    image.save(path)
    return indices


def test_colours_of_a_palette_take_no_numbers_of_eight_bytes(tmp_path):
    indices = palette_image(tmp_path / "a.gif")
    image = read_image(tmp_path / "a.gif", gray=False)
    assert (image == np.stack([np.full_like(indices, 9), 2 * indices, indices], -1)).all()
    # the indices, what is made of them, and a band
    limits = {True: 2, False: 4}
    for gray, num_bytes in limits.items():
        peak = peak_bytes(read_image, tmp_path / "a.gif", gray=gray)
        assert peak < (num_bytes + 1.5) * SIDE**2 + 12 * bands.BAND_PIXELS
    mask = peak_bytes(read_mask, tmp_path / "a.gif")
    assert mask < 2.5 * SIDE**2 + 4 * bands.BAND_PIXELS


@pytest.mark.parametrize("gray", [True, False])
def test_gray_of_sixteen_bits_is_no_more_than_its_colours(tmp_path, gray):
    pixels = np.arange(SIDE * SIDE, dtype=np.uint32).reshape(SIDE, SIDE).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "a.png"), pixels)
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = int(status.read_text().partition("VmRSS:")[2].split()[0])
    image = read_image(tmp_path / "a.png", gray=gray)
    peak = int(status.read_text().partition("VmHWM:")[2].split()[0])
    assert image.shape == (SIDE, SIDE, 1 if gray else 3)
    assert (image == pixels[:, :, np.newaxis]).all()
    # Two bytes and six; OpenCV by itself takes six twice. The file's content is beside it.
    content = (tmp_path / "a.png").stat().st_size
    assert 1024 * (peak - before) < 9.5 * SIDE**2 + content


def test_values_are_counted_in_bands(monkeypatch):
    monkeypatch.setattr(bands, "BAND_PIXELS", 2**16)
    mask = np.arange(SIDE * SIDE, dtype=np.uint32).reshape(SIDE, SIDE).astype(np.uint8)
    assert peak_bytes(count_values, mask) < SIDE**2
    assert count_values(mask) == Counter(dict.fromkeys(range(256), SIDE**2 // 256))


def test_mask_of_one_pixel_a_row_is_read_in_time(tmp_path):
    """A TIFF of 300 kB can have 2^28 rows: row by row, that took an hour."""
    pixels = np.zeros((2**21, 1, 4), np.uint8)
    pixels[5] = 3
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.tif", compression="tiff_adobe_deflate")
    began = time.process_time()
    assert read_mask(tmp_path / "a.tif").sum() == 3
    assert time.process_time() - began < 5


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (3, 7), (1, 40), (40, 1)])
def test_bands_are_all_of_an_image(size, monkeypatch):
    monkeypatch.setattr(bands, "BAND_PIXELS", 10)
    image = np.arange(np.prod(size)).reshape(size)
    assert (np.concatenate(list(bands.bands(image))) == image).all()


def gif(width, height, method):
    """Return a GIF of one frame: its first bytes, and how it is to be disposed of."""
    screen = struct.pack("<HH", 1, 1) + bytes((0x80, 0, 0)) + bytes(6)
    control = b"\x21\xf9\x04" + bytes((method << 2, 0, 0, 0, 0))
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, width, height) + b"\0"
    return b"GIF89a" + screen + control + frame + b"\x02\x02\x44\x01\x00;"


def test_header_makes_room_for_no_frame(tmp_path, monkeypatch):
    made = []
    fill = Image.core.fill
    monkeypatch.setattr(Image.core, "fill", lambda *args: made.append(args) or fill("L", (1, 1)))
    (tmp_path / "a.gif").write_bytes(gif(65535, 65535, method=2))
    with pytest.raises(DataError, match="4,294,836,225 pixels; more than"):
        read_header(tmp_path / "a.gif")
    assert not made


@pytest.mark.parametrize("kind", ["gif", "png", "bmp", "tif"])
def test_palette_is_read_without_the_pixels(tmp_path, kind, monkeypatch):
    path = tmp_path / f"a.{kind}"
    palette_image(path, num_colours=7)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    found = read_header(path).palette
    assert found[:7] == tuple((index, 2 * index, 9) for index in range(7))
