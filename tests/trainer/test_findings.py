"""What no single file of a data set shows: said by the worker, the search and `rml-data check`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import one_error
from worker import Worker

from hpo.data.cli import main

DRY = ("--num-trials", "1", "--layers", "unet:width=4,depth=2", "--resize", "32,32", "--dry-run")


@pytest.fixture
def data(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(discs, tmp_path / "data"))


def checked(data: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    main(["check", str(data), "--json"])
    return json.loads(capsys.readouterr().out)


def to_palette(path: Path, *colours: tuple[int, int, int]) -> None:
    """Make a mask of {0, 255} one of indices 0 and 1, with these colours."""
    indices = (np.asarray(Image.open(path)) > 0).astype(np.uint8)
    image = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    image.putpalette([value for colour in colours for value in colour])
    image.save(path)


BLACK, WHITE, RED, GREEN = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0)


@pytest.mark.parametrize(
    ("second", "words"),
    [((BLACK, GREEN), ("(0, 255, 0) at 1", "(255, 0, 0)")), ((RED, BLACK), ("at 0",))],
)
def test_palettes_that_disagree_are_refused_everywhere(
    data, worker: Worker, run, capsys, second, words
) -> None:
    for part in ("train", "test"):
        for path in (data / part / "targets").iterdir():
            to_palette(path, BLACK, RED)
    worker(data=data).succeeded()
    odd = data / "test/targets/img 03.png"
    to_palette(odd, *second)
    errors = [
        worker(data=data).error(),
        one_error(run("rml-optimize", "--data", str(data), *DRY)),
        "\n".join(checked(data, capsys)["problems"]),
    ]
    for error in errors:
        for word in (str(odd), *words, "write all with one palette"):
            assert word in error


def test_palettes_that_disagree_are_mapped_by_their_colours(data, capsys, tmp_path) -> None:
    """The proposed table makes classes of all masks, whose colours Pillow says."""
    palettes = ((BLACK, RED), (RED, BLACK), (GREEN, BLACK))
    paths = sorted(path for part in ("train", "test") for path in (data / part).glob("targets/*"))
    for index, path in enumerate(paths):
        to_palette(path, *palettes[index % 3])
        if index % 2:  # another format with a palette
            with Image.open(path) as image:
                image.save(path.with_suffix(".gif" if index % 4 == 1 else ".tif"))
            path.unlink()
    problem = next(p for p in checked(data, capsys)["problems"] if "palette" in p)
    assert "(and " in problem
    table = problem.split("--colors ")[-1]
    assert set(table.split(",")) == {"000000", "ff0000", "00ff00"}
    table = "000000,ff0000,00ff00"
    assert main([
        "prepare", "folder", "--inputs", f"{data}/train/inputs/*.png", "--targets",
        f"{data}/train/targets/{{stem}}.*", "--colors", table, "--out", str(tmp_path / "out"),
    ]) == 0  # fmt: skip
    colours = [BLACK, RED, GREEN]
    found = sorted((tmp_path / "out").glob("*/targets/*.png"))
    assert len(found) == 12
    seen = set()
    for path in found:
        (source,) = (data / "train/targets").glob(f"{path.stem.replace('_', ' ')}.*")
        with Image.open(source) as image:
            rgb = np.asarray(image.convert("RGB"))
        with Image.open(path) as image:
            ids = np.asarray(image)
        np.testing.assert_array_equal(np.array(colours)[ids], rgb)
        seen |= set(np.unique(ids).tolist())
    assert seen == {0, 1, 2}


def test_black_and_white_palettes_of_either_order_are_one_kind_of_mask(data, worker) -> None:
    expected = worker(data=data).succeeded()
    to_palette(data / "train/targets/img 00.png", BLACK, WHITE)
    path = data / "train/targets/img 01.png"
    indices = (np.asarray(Image.open(path)) == 0).astype(np.uint8)
    Image.fromarray(indices * 255).save(path)
    to_palette(path, WHITE, BLACK)
    assert worker(data=data).succeeded().losses == expected.losses


def test_white_at_0_of_a_palette_with_other_colours_is_warned_of(data, worker, capsys) -> None:
    for part in ("train", "test"):
        for path in (data / part / "targets").iterdir():
            to_palette(path, WHITE, BLACK, RED)
    words = "white at 0 and black at 1: set data.mask_values=[1, 0]"
    assert words in worker(data=data).succeeded().out
    assert any(words in text for text in checked(data, capsys)["advice"])


def test_palette_that_nobody_filled_in_means_class_ids(data: Path, worker: Worker) -> None:
    for part in ("train", "test"):
        for path in (data / part / "targets").iterdir():
            to_palette(path, BLACK, BLACK)
    assert "white at" not in worker(data=data).succeeded().out


def tag(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    with Image.open(path) as image:
        image.load()
        image.save(path, exif=exif.tobytes())


def test_tags_are_said_and_a_mask_without_its_images_tag_is_warned_of(
    data: Path, worker: Worker, run, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("img 00.png", "img 01.png"):
        tag(data / "train/inputs" / name, 3)
    tag(data / "train/targets/img 00.png", 3)
    said = [
        worker(data=data).succeeded().out,
        run("rml-optimize", "--data", str(data), *DRY).stdout,
        "\n".join(checked(data, capsys)["advice"]),
    ]
    for text in said:
        text = " ".join(text.split())
        assert "orientation tags: 2 images, 1 mask;" in text
        assert "warning: orientation tag in one file of a pair alone: img 01.png;" in text


def test_tag_of_one_file_alone_that_changes_its_size_is_named(data: Path, worker) -> None:
    for kind in ("inputs", "targets"):
        path = data / "train" / kind / "img 00.png"
        Image.open(path).crop((0, 0, 32, 24)).save(path)
    tag(data / "train/inputs/img 00.png", 6)
    error = worker(data=data).error()
    assert "the mask is 24x32, its image img 00.png 32x24" in error
    assert "exiftool -Orientation=" in error


def test_alpha_that_is_not_read_is_counted(data: Path, worker: Worker, run, capsys) -> None:
    path = data / "train/inputs/img 00.png"
    with Image.open(path) as image:
        image.convert("RGBA").save(path)
    for text in (
        worker(data=data).succeeded().out,
        run("rml-optimize", "--data", str(data), *DRY).stdout,
        "\n".join(checked(data, capsys)["advice"]),
    ):
        assert "alpha channel, not read: images img 00.png" in " ".join(text.split())


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("case", ["the file itself", "saved anew", "of another image"])
def test_images_copy_among_the_masks_is_refused_by_content(
    data: Path, worker: Worker, run, capsys, part: str, case: str
) -> None:
    mask = data / part / "targets/img 01.png"
    source = data / part / "inputs" / ("img 02.png" if "another" in case else mask.name)
    if case == "saved anew":
        with Image.open(source) as image:
            image.save(mask, compress_level=0)
        assert mask.read_bytes() != source.read_bytes()
    else:
        shutil.copy(source, mask)
    said = f"copies of images, pixel by pixel: {mask} = image {source}"
    assert said in worker(data=data, data__mask_threshold=128).error()
    settings = ("--set", "data.mask_threshold=128")
    assert said in one_error(run("rml-optimize", "--data", str(data), *DRY, *settings))
    assert any(said in text for text in checked(data, capsys)["problems"])


def test_black_image_with_a_black_mask_is_no_copy(data: Path, worker: Worker, run) -> None:
    for part in ("train", "test"):
        for kind in ("inputs", "targets"):
            Image.new("L", (32, 32)).save(data / part / kind / "img 00.png")
    worker(data=data).succeeded()
    assert run("rml-optimize", "--data", str(data), *DRY).returncode == 0


def test_images_as_their_own_continuous_targets_are_no_copies(data: Path, worker: Worker) -> None:
    for part in ("train", "test"):
        shutil.rmtree(data / part / "targets")
        shutil.copytree(data / part / "inputs", data / part / "targets")
    loss = {"function": "MSE"}
    assert "continuous" in worker(data=data, data__target_is_mask=False, loss=loss).succeeded().out
    assert "copies of images" in worker(data=data).error()
