"""Files of every kind that scanners, cameras and attackers make: read right, or refused."""

from __future__ import annotations

import os
import resource
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import one_error, write_config
from worker import Worker, write_png

from trainer.data.images import list_images, read_image, read_mask
from trainer.errors import DataError


def smooth(shape: tuple[int, ...] = (40, 60, 3), top: int = 255) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, top + 1, shape).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 3).astype(np.uint8 if top == 255 else np.uint16)


SMOOTH = smooth()


# --- kinds of pixels --------------------------------------------------------------------------


def pil(path: Path, mode: str, **options: object) -> Path:
    Image.fromarray(SMOOTH).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colour_gray_and_alpha_of_8_and_16_bits_are_read_as_stored(
    tmp_path: Path, name: str, channels: int, dtype: type
) -> None:
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, top, (6, 7, channels), dtype, endpoint=True)
    found = read_image(write_png(tmp_path / name, pixels, dtype), gray=False)
    assert found.dtype == dtype
    assert (found == (pixels[..., :3] if channels > 1 else pixels.repeat(3, 2))).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_gray_with_alpha_gives_the_gray(tmp_path: Path, name: str) -> None:
    path = pil(tmp_path / name, "LA")
    expected = np.asarray(Image.fromarray(SMOOTH).convert("L"))
    assert (read_image(path, gray=True)[..., 0] == expected).all()
    assert (read_image(path, gray=False) == expected[..., None]).all()


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_palette_input_gives_its_colours(tmp_path: Path, name: str) -> None:
    path = pil(tmp_path / name, "P")
    expected = np.asarray(Image.open(path).convert("RGB"))[..., ::-1]
    assert (read_image(path, gray=False) == expected).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [True, False])
def test_jpeg_of_three_kinds_gives_what_pillow_makes_of_it(tmp_path, mode, progressive) -> None:
    path = pil(tmp_path / "a.jpg", mode, quality=95, progressive=progressive)
    expected = np.asarray(Image.open(path).convert("RGB"))[..., ::-1].astype(int)
    found = read_image(path, gray=False)
    assert found.shape == SMOOTH.shape
    assert np.abs(found - expected).mean() < 2  # two roundings of colours


@pytest.mark.parametrize("name", ["m.tif", "m.bmp", "m.png"])
def test_mask_of_one_bit_is_0_and_255(tmp_path: Path, name: str) -> None:
    Image.fromarray(SMOOTH[..., 0] > 127).save(tmp_path / name)
    assert (read_mask(tmp_path / name) == (SMOOTH[..., 0] > 127) * 255).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_suffix_may_lie_about_the_kind(tmp_path: Path, suffix: str) -> None:
    write_png(tmp_path / "a.png", SMOOTH)
    (tmp_path / "a.png").rename(tmp_path / f"b{suffix}")
    assert (read_image(tmp_path / f"b{suffix}", gray=False) == SMOOTH).all()


# --- broken files -----------------------------------------------------------------------------

KINDS = (".png", ".jpg", ".tif", ".bmp")
WHOLE = {suffix: cv2.imencode(suffix, SMOOTH)[1].tobytes() for suffix in KINDS}


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(KINDS), st.floats(0, 0.97))
def test_truncated_file_is_refused_never_read_in_part(tmp_path_factory, suffix, share) -> None:
    path = tmp_path_factory.mktemp("cut") / f"a{suffix}"
    path.write_bytes(WHOLE[suffix][: int(share * len(WHOLE[suffix]))])
    for read in (lambda path: read_image(path, gray=False), read_mask):
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: not a readable image (")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=4),
    st.booleans(),
)
def test_changed_bytes_are_read_or_refused_by_name(tmp_path_factory, suffix, patches, head):
    path = tmp_path_factory.mktemp("changed") / f"a{suffix}"
    content = bytearray(WHOLE[suffix])
    for place, patch in patches:  # half of them in the header, where sizes and kinds stand
        start = int(place * (64 if head else len(content) - 8))
        content[start : start + len(patch)] = patch
    path.write_bytes(bytes(content))
    for read in (lambda path: read_image(path, gray=True), read_mask):
        try:
            assert read(path).size <= 2**28
        except DataError as error:
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)


@pytest.mark.parametrize("content", [b"\0" * 5000, b"<html></html>", b"GIF89a" + b"\1" * 80])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(
        DataError, match=r"a\.png: .*no PNG, JPEG, TIFF, BMP or GIF, whatever its name"
    ):
        read_image(tmp_path / "a.png", gray=False)


def test_pipe_in_a_data_folder_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: not a file"):
        read_image(tmp_path / "a.png", gray=False)


# --- bombs ------------------------------------------------------------------------------------

SIDE = 100_000


def png_bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def bmp_bomb() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def tiff_bomb(samples: int = 1) -> bytes:
    bits = (258, 3, 1, 8)
    tags = [(256, 4, 1, SIDE), (257, 4, 1, SIDE), bits, (259, 3, 1, 5), (262, 3, 1, 1),
            (273, 4, 1, 8), (277, 3, 1, samples), (278, 4, 1, SIDE), (279, 4, 1, 10)]  # fmt: skip
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + body + b"\0" * 4


def jpeg_bomb() -> bytes:
    content = bytearray(WHOLE[".jpg"])
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    return bytes(content)


HDR = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 100000 +X 100000\n"  # OpenCV reads this kind too
BOMBS = {
    "a.png": png_bomb(), "a.bmp": bmp_bomb(), "a.tif": tiff_bomb(), "b.tif": tiff_bomb(7),
    "a.jpg": jpeg_bomb(), "b.png": HDR, "c.png": b"P5 100000 100000 255\n",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("read", [lambda path: read_image(path, gray=False), read_mask])
def test_bomb_is_refused_without_allocating(tmp_path: Path, name: str, read, monkeypatch) -> None:
    (tmp_path / name).write_bytes(BOMBS[name])
    monkeypatch.setattr(cv2, "imdecode", None)  # is not called
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=rf"{name}: .*(pixels; more than|no PNG, JPEG, TIFF)"):
        read(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


# --- links ------------------------------------------------------------------------------------


@pytest.fixture
def linked(discs: Path, tmp_path: Path) -> Path:
    """A data set of which one image is a link to elsewhere."""
    data = tmp_path / "my data"
    shutil.copytree(discs, data)
    link = data / "train/inputs/img 03.png"
    link.rename(tmp_path / "elsewhere.png")
    link.symlink_to(tmp_path / "elsewhere.png")
    return data


def test_link_out_of_the_folder_is_followed_only_where_asked(worker: Worker, linked, discs):
    error = worker(data=linked).error()
    assert error.count("\n") == 1
    for word in ("data.input_path: ", "img 03.png is a link that leaves the folder, to ",
                 "elsewhere.png", "set data.follow_symlinks to true"):  # fmt: skip
        assert word in error
    followed = worker(data=linked, data__follow_symlinks=True).succeeded()
    assert followed.losses == worker(data=discs).losses


def test_link_of_a_mask_is_named_by_its_key(worker: Worker, discs: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(discs, data)
    (data / "test/targets/img 00.png").unlink()
    (data / "test/targets/img 00.png").symlink_to("../inputs/img 00.png")
    assert "data.test_target_path: " in worker(data=data).error()


def test_link_within_the_folder_and_a_folder_that_is_one_are_fine(tmp_path: Path) -> None:
    write_png(tmp_path / "real/a.png", SMOOTH)
    (tmp_path / "real/b.png").symlink_to("a.png")
    (tmp_path / "folder").symlink_to("real")
    assert [p.name for p in list_images(tmp_path / "folder", "k")] == ["a.png", "b.png"]


@pytest.mark.parametrize("target", ["nowhere.png", "a.png"])
def test_link_to_nowhere_or_itself_is_refused_by_name(tmp_path: Path, target: str) -> None:
    (tmp_path / "a.png").symlink_to(target)
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(list_images(tmp_path, "k")[0], gray=True)


def test_search_says_so_before_it_starts_and_follows_where_asked(run, linked: Path) -> None:
    arguments = ["rml-optimize", "--data", str(linked), "--num-trials", "1", "--dry-run"]
    error = one_error(run(*arguments))
    assert "img 03.png is a link that leaves the folder" in error
    result = run(*arguments, "--set", "data.follow_symlinks=true")
    assert "is a link" not in result.stdout + result.stderr


def test_prediction_follows_no_link_out_of_its_folder(tmp_path: Path, linked: Path) -> None:
    from trainer.cli import main

    write_config(tmp_path / "config.json", linked)
    images = str(linked / "train/inputs")
    assert (
        main(["--predict", str(tmp_path), "--images", images, "--out", str(tmp_path / "o")]) == 2
    )
    assert not (tmp_path / "o").exists()
