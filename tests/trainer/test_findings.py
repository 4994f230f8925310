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
        assert "orientation tags: 2 images, 1 masks" in text
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
