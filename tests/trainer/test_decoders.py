"""Pixels as other libraries read them: every kind of TIFF beside tifffile, the rest beside Pillow.

A kind is read right or refused by name; none is read wrong.
"""

from __future__ import annotations

import itertools
import logging
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from trainer.data.images import read_image, read_mask
from trainer.errors import DataError

logging.getLogger("tifffile").setLevel(logging.CRITICAL)

COLOURS = {"minisblack": 1, "miniswhite": 1, "rgb": 3}
ALPHAS = (None, "unassalpha", "assocalpha", "unspecified")
# What nearly all programs write must be read, not refused.
COMMON = {
    (1, "minisblack", "contig", None), (1, "miniswhite", "contig", None),
    (8, "minisblack", "contig", None), (8, "miniswhite", "contig", None),
    (8, "minisblack", "contig", "unassalpha"), (8, "rgb", "separate", None),
    (8, "rgb", "contig", None), (8, "rgb", "contig", "unassalpha"),
    (8, "rgb", "contig", "assocalpha"), (8, "rgb", "separate", "unassalpha"),
    (16, "minisblack", "contig", None), (16, "miniswhite", "contig", None),
    (16, "rgb", "contig", None), (16, "rgb", "contig", "unassalpha"),
}  # fmt: skip


def tiffs(path: Path, bits: int, meaning: str, planes: str, alpha: str | None):
    """Write such a TIFF in every order of bytes, compression and partition; yield its pixels."""
    number = COLOURS[meaning] + (alpha is not None)
    rng, top = np.random.default_rng(0), 2**bits - 1
    dtype = {1: bool, 8: np.uint8, 16: np.uint16}[bits]
    pixels = rng.integers(0, top + 1, (21, 37, number)).astype(dtype)
    if alpha is not None:
        pixels[..., -1] = rng.integers(top // 3, top, (21, 37))
    for order, compression, tile, predictor, is_big in itertools.product(
        "<>", (None, "zlib", "lzma"), (None, (16, 16)), (False, True), (False, True)
    ):
        if predictor and (compression != "zlib" or bits == 1):
            continue
        if bits == 1 and (compression or tile):
            continue
        data = pixels if planes == "contig" else np.moveaxis(pixels, -1, 0)
        options = {"planarconfig": planes, "extrasamples": [alpha]} if number > 1 else {}
        if number > 1 and alpha is None:
            del options["extrasamples"]
        tifffile.imwrite(
            path, data if number > 1 else data[..., 0], metadata=None, photometric=meaning,
            byteorder=order, compression=compression, tile=tile, predictor=predictor or None,
            bigtiff=is_big, **options,
        )  # fmt: skip
        stored = tifffile.imread(path)
        assert (np.moveaxis(stored, 0, -1) if data is not pixels else stored).size == pixels.size
        yield pixels


@pytest.mark.parametrize(
    ("bits", "meaning", "planes", "alpha"),
    [
        case
        for case in itertools.product((1, 8, 16), COLOURS, ("contig", "separate"), ALPHAS)
        if case[0] > 1 or (case[1] != "rgb" and case[2] == "contig" and case[3] is None)
        if COLOURS[case[1]] > 1 or case[3] or case[2] == "contig"
    ],
)
def test_tiff_is_read_as_tifffile_reads_it_or_refused(
    tmp_path: Path, bits: int, meaning: str, planes: str, alpha: str | None
) -> None:
    path = tmp_path / "a.tif"
    top = 2 ** max(bits, 8) - 1
    read = refused = 0
    for pixels in tiffs(path, bits, meaning, planes, alpha):
        expected = pixels[..., : COLOURS[meaning]].astype(int) * (255 if bits == 1 else 1)
        if meaning == "miniswhite":
            expected = top - expected
        is_gray = COLOURS[meaning] == 1
        try:
            found = read_image(path, gray=False)
            assert (found == (expected.repeat(3, 2) if is_gray else expected[..., ::-1])).all()
            if is_gray:
                assert (read_image(path, gray=True) == expected).all()
                assert (read_mask(path) == expected[..., 0]).all()
            read += 1
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
    if (bits, meaning, planes, alpha) in COMMON:
        # LZMA alone, which no common program writes, is read at 8 bits only
        assert refused <= (8 if bits > 1 else 0)
    assert read + refused > 3


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg"])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_tiff_that_pillow_writes_is_read_as_pillow_reads_it(tmp_path, mode, compression) -> None:
    if compression == "jpeg" and mode in ("P", "1"):
        pytest.skip("no such TIFF")
    path = tmp_path / "a.tif"
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 3)).convert(mode).save(
        path, compression=compression
    )
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)[..., ::-1]
    differences = np.abs(read_image(path, gray=False).astype(int) - expected)
    assert differences.max() <= (2 if compression == "jpeg" else 0)
    if mode != "RGB":
        stored = np.asarray(Image.open(path)).astype(int) * (255 if mode == "1" else 1)
        assert np.abs(read_mask(path).astype(int) - stored).max() <= (compression == "jpeg") * 2


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((6, 8), np.float32), np.zeros((6, 8), np.int16), np.zeros((6, 8), np.uint32),
        np.zeros((6, 8, 5), np.uint8), np.zeros((6, 8, 6), np.uint16),
    ],
)  # fmt: skip
def test_tiff_that_is_not_read_names_type_and_bands(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, metadata=None, photometric="minisblack", planarconfig="contig")
    bands = pixels.shape[2] if pixels.ndim == 3 else 1
    for read in (lambda path: read_image(path, gray=True), read_mask):
        with pytest.raises(DataError, match=f"{pixels.dtype}, {bands} band.*convert it"):
            read(path)


def test_packed_12_bits_keep_their_values(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (6, 8), np.uint16)
    packed = int("".join(f"{value:012b}" for value in pixels.ravel()), 2).to_bytes(72, "big")
    tags = [(256, 4, 8), (257, 4, 6), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 122),
            (277, 3, 1), (278, 4, 6), (279, 4, len(packed))]  # fmt: skip
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    (tmp_path / "a.tif").write_bytes(head + body + b"\0" * 4 + packed)
    assert (read_image(tmp_path / "a.tif", gray=True)[..., 0] == pixels).all()


@pytest.mark.parametrize("gray", [True, False])
def test_pages_after_the_first_are_refused_unless_they_are_smaller_copies(tmp_path, gray) -> None:
    page = np.full((32, 48), 7, np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([page] * 3), metadata=None, photometric="minisblack")
    for read in (lambda path: read_image(path, gray=gray), read_mask):
        with pytest.raises(DataError, match=r"a\.tif: holds 3 images \(pages of a TIFF\)"):
            read(path)
    with tifffile.TiffWriter(path) as writer:
        writer.write(page, metadata=None)
        writer.write(page[::2, ::2], metadata=None, subfiletype=1)
    assert (read_mask(path) == 7).all()


def test_gif_of_one_frame_is_read_and_an_animation_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    frame = Image.fromarray(noise).quantize(64)
    frame.save(tmp_path / "a.gif")
    expected = np.asarray(frame.convert("RGB"))[..., ::-1]
    assert (read_image(tmp_path / "a.gif", gray=False) == expected).all()
    frame.save(tmp_path / "a.gif", save_all=True, append_images=[frame.rotate(90)])
    for read in (lambda path: read_image(path, gray=True), read_mask):
        with pytest.raises(DataError, match=r"a\.gif: holds 2 images"):
            read(tmp_path / "a.gif")


# --- which way up ------------------------------------------------------------------------------


def with_tag(path: Path, pixels: np.ndarray, orientation: int) -> None:
    if path.suffix == ".tif":
        tag = (274, 3, 1, orientation, True)
        meaning = "rgb" if pixels.ndim == 3 else "minisblack"
        tifffile.imwrite(path, pixels, extratags=[tag], metadata=None, photometric=meaning)
        return
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif.tobytes(), quality=100)


def with_exif(pixels: np.ndarray, orientation: int) -> Image.Image:
    image = Image.fromarray(pixels)
    image.getexif()[274] = orientation
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_tag_turns_images_and_masks_alike(tmp_path: Path, suffix: str, orientation: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 8), np.uint8)
    gray = noise.repeat(16, 0).repeat(16, 1)
    path = tmp_path / f"a{suffix}"
    with_tag(path, gray, orientation)
    turned = np.asarray(ImageOps.exif_transpose(with_exif(gray, orientation))).astype(int)
    for found in (read_mask(path), read_image(path, gray=True)[..., 0]):
        assert found.shape == turned.shape
        assert np.abs(found.astype(int) - turned).max() <= 2


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_tag_turns_a_palette_mask(tmp_path: Path, suffix: str) -> None:
    indices = np.random.default_rng(0).integers(0, 4, (5, 8), np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([value for n in range(256) for value in (n, 255 - n, n // 2)])
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        image.save(path, tiffinfo={274: 6})
    else:
        exif = Image.Exif()
        exif[274] = 6
        image.save(path, exif=exif.tobytes())
    assert (read_mask(path) == np.rot90(indices, -1)).all()


# --- palettes and alpha of masks ---------------------------------------------------------------


def palette_mask(path: Path, indices: np.ndarray, *colours: tuple[int, int, int]) -> Path:
    image = Image.frombytes("P", indices.shape[::-1], indices.astype(np.uint8).tobytes())
    image.putpalette([value for colour in colours for value in colour])
    image.save(path)
    return path


WHITE, BLACK, RED, GREEN = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0)
DISC = np.indices((16, 16)).sum(0) > 20


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".gif"])
@pytest.mark.parametrize("first", ["white", "black"])
def test_black_and_white_palette_gives_black_as_0_whatever_its_order(tmp_path, suffix, first):
    order = (BLACK, WHITE) if first == "black" else (WHITE, BLACK)
    indices = DISC if first == "black" else ~DISC
    path = palette_mask(tmp_path / f"m{suffix}", indices, *order)
    if suffix != ".bmp":  # of which Pillow reads two colours wrong
        with Image.open(path) as image:
            assert (np.asarray(image.convert("L")) == DISC * 255).all()
    assert (read_mask(path) == DISC * 255).all()


def test_quantized_black_and_white_is_read_by_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray((DISC * 255).astype(np.uint8)).convert("RGB").quantize(2)
    image.save(tmp_path / "m.png")
    assert (read_mask(tmp_path / "m.png") == DISC * 255).all()


def test_palette_without_meaning_gives_its_indices(tmp_path: Path) -> None:
    indices = np.arange(256).reshape(16, 16) % 3
    path = palette_mask(tmp_path / "m.png", indices, BLACK, BLACK, WHITE)
    assert (read_mask(path) == indices).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_mask_that_is_in_alpha_alone_is_refused(tmp_path: Path, mode: str) -> None:
    gray, alpha = Image.new("L", (16, 16), 255), Image.fromarray((DISC * 255).astype(np.uint8))
    bands = [gray] * (3 if mode == "RGBA" else 1)
    Image.merge(mode, [*bands, alpha]).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png: what the mask shows is in its alpha channel"):
        read_mask(tmp_path / "m.png")
    Image.merge(mode, [alpha] * (len(bands) + 1)).save(tmp_path / "m.png")
    assert (read_mask(tmp_path / "m.png") == DISC * 255).all()
