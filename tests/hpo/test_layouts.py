"""Folders as people have them: the command that an error proposes makes a data folder of each."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from support import one_error, write_discs

from hpo.data.cli import main
from hpo.dataset.datafolder import LAYOUTS as LAYOUTS_READ
from hpo.dataset.datafolder import find_data
from hpo.dataset.survey import survey_data
from hpo.errors import UsageError

# How an image and its mask are called, by number and by a name.
LAYOUTS = {
    "two folders": ("images/{0:03d}.png", "masks/{0:03d}.png"),
    "two folders, other endings": ("img/case {1}.png", "annotations/case {1}_lesion.png"),
    "nnU-Net": ("imagesTr/liver_{0:03d}_0000.png", "labelsTr/liver_{0:03d}.png"),
    "one folder, prefixes": ("img_{0:03d}.png", "seg_{0:03d}.png"),
    "one folder, endings": ("{0:03d}_image.png", "{0:03d}_annotation.png"),
    "odd letters": ("im[a]ges/x {0:d}.png", "im[a]ges/x {0:d} (mask).png"),
    "DRIVE": ("images/{0:d}_training.tif", "1st_manual/{0:d}_manual1.gif"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_proposed_command_prepares_the_folder(
    discs: Path, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root = tmp_path / "as it is"
    words = "anna ben carl dora emil fay gus hal ida jo kim leo".split()  # noqa: SIM905
    for index, path in enumerate(sorted((discs / "train/inputs").iterdir())):
        for pattern, kind in zip(LAYOUTS[name], ("inputs", "targets"), strict=True):
            target = root / pattern.format(index + 7, words[index])
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(discs / "train" / kind / path.name) as image:
                image.save(target)
    error = one_error(run("rml-optimize", "--data", root, "--num-trials", "1", "--dry-run"))
    command = error.partition("this makes such a folder: ")[2].splitlines()[0]
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 0
    survey = survey_data(find_data(tmp_path / "data", needs_test=True), cache=tmp_path / "s.json")
    assert survey.num_train + survey.num_test == 12
    assert survey.coding.kind == "binary"


def test_folder_that_nothing_fits_gets_no_command(tmp_path: Path, discs: Path, run) -> None:
    shutil.copytree(discs / "train/inputs", tmp_path / "x/images")
    assert "this makes" not in one_error(run("rml-optimize", "--data", tmp_path / "x"))


def test_folder_that_may_not_be_read_hides_no_proposal(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(discs / "train/inputs", tmp_path / "x/images")
    shutil.copytree(discs / "train/targets", tmp_path / "x/masks")
    (tmp_path / "x/lost+found").mkdir()
    iterdir = Path.iterdir

    def refuse_one(path: Path) -> Iterator[Path]:
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse_one)
    with pytest.raises(UsageError, match="this makes such a folder: rml-data prepare"):
        find_data(tmp_path / "x", needs_test=False)


DRY = ("--resize", "32,32", "--no-gpu", "--layers", "unet:width=4,depth=2", "--dry-run")


@pytest.fixture
def three_parts(discs: Path, tmp_path: Path) -> Path:
    """A data folder with train/, val/ and test/, whose images have the same names."""
    root = Path(shutil.copytree(discs, tmp_path / "data"))
    write_discs(tmp_path / "other", num_train=6, num_test=4, size=32)
    for part, name in (("train", "val"), ("test", "test")):
        shutil.rmtree(root / name, ignore_errors=True)
        for kind in ("inputs", "targets"):
            for path in (tmp_path / "other" / part / kind).iterdir():
                target = root / name / kind / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with Image.open(path) as image:  # of no other part, nor like one
                    turns = (
                        Image.Transpose.ROTATE_90 if name == "val" else Image.Transpose.ROTATE_180
                    )
                    image.transpose(turns).save(target)
    return root


def test_validation_folder_is_not_read_where_test_images_select(three_parts: Path, run) -> None:
    result = run("rml-optimize", "--data", three_parts, *DRY)
    assert "val/ is not read: --select-on validation compares trials on it" in result.stdout
    assert "12 training, 4 test" in result.stdout


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")
    }


def test_validation_folder_is_the_validation_part(
    three_parts: Path, tmp_path: Path, run, standin: str
) -> None:
    select = ("--data", three_parts, "--select-on", "validation")
    dry = run("rml-optimize", *select, *DRY)
    assert dry.returncode == 0, dry.stderr
    assert "12 training, 6 validation, 4 test" in dry.stdout
    assert "the 6 images of val/inputs/" in dry.stdout
    assert "is not read" not in dry.stdout
    command = (
        "rml-optimize", *select, *DRY[:-1], "--worker", standin, "--num-trials", "2",
        "--jobs", "1", "--output-dir", tmp_path / "out",
    )  # fmt: skip
    result = run(*command)
    assert "on the 6 images of val/inputs/" in result.stdout, result.stderr
    (split,) = (tmp_path / "out/runs").glob("*/split_*")
    assert contents(split / "train") == contents(three_parts / "train")
    assert contents(split / "validation") == contents(three_parts / "val")
    (config,) = (tmp_path / "out/runs").glob("*/trial_00000/attempt_1/config.json")
    data = json.loads(config.read_text())["neural_network"]["data"]
    assert data["test_input_path"] == str(split / "validation/inputs")
    assert data["input_path"] == str(split / "train/inputs")
    again = run(*command)
    assert again.returncode == 0, again.stderr
    # Other validation images are another study.
    path = three_parts / "val/inputs/img 00.png"
    with Image.open(path) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    assert "images of val/inputs, hash" in one_error(run(*command))
    # ... and so is a part that is split off.
    (three_parts / "val").rename(tmp_path / "away")
    assert "select on" in one_error(run(*command))


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        ("val/targets", (), ("has no folder val/targets/", "or move val/ away")),
        ("val/inputs", (), ("has no folder val/inputs/", "or move val/ away")),
        ("", ("--validation-fraction", "0.3"), ("has a validation part, val/;",)),
        ("", ("--group-by", "["), ("--group-by '[': not a regular expression",)),
        ("", ("--group-by", r"p(\d)"), (r"--group-by 'p(\\d)' does not match img 00.png",)),
        ("double", (), ("several validation parts (val, validation); keep one",)),
    ],
)
def test_validation_part_that_is_half_or_twice_there_is_refused(
    three_parts: Path, run, spoil: str, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    if spoil == "double":
        shutil.copytree(three_parts / "val", three_parts / "validation")
    elif spoil:
        (three_parts / spoil).rename(three_parts / "elsewhere")
    select = ("--data", three_parts, "--select-on", "validation")
    error = one_error(run("rml-optimize", *select, *options, *DRY))
    for word in words:
        assert word in error


def test_validation_folder_without_foreground_is_refused(three_parts: Path, run) -> None:
    for path in (three_parts / "val/targets").iterdir():
        Image.new("L", (32, 32)).save(path)
    select = ("--data", three_parts, "--select-on", "validation")
    error = one_error(run("rml-optimize", *select, *DRY))
    assert "the validation images have no foreground" in error


def test_validation_folder_is_checked_and_leaks_into_it_are_found(three_parts: Path, run) -> None:
    result = run("rml-data", "check", three_parts)
    assert "12 train, 6 validation, 4 test images with masks" in result.stdout
    assert "in several parts" not in result.stdout
    for kind in ("inputs", "targets"):
        source = three_parts / "train" / kind / "img 05.png"
        shutil.copy(source, three_parts / "val" / kind / "img 01.png")
    result = run("rml-data", "check", three_parts)
    both = "1 image is in several parts: img 05.png (train) = img 01.png (validation);"
    assert both in result.stdout
    dry = run(
        "rml-optimize", "--data", three_parts, "--select-on", "validation", "--group-by",
        r"(\d+)$", *DRY,
    )  # fmt: skip
    text = " ".join(dry.stdout.split())
    assert "6 patients are in the training images and in val/ alike (00, for one)" in text


@pytest.mark.parametrize("layout", LAYOUTS_READ)
def test_validation_part_of_every_layout_is_found(
    three_parts: Path, tmp_path: Path, layout
) -> None:
    for word in ("val", "valid", "validation"):
        root = tmp_path / word
        for part, name in zip(layout, ("train", "test"), strict=True):
            for folder, kind in ((part.inputs, "inputs"), (part.targets, "targets")):
                shutil.copytree(three_parts / name / kind, root / folder)
                if name == "train":
                    own = re.sub("^train(ing)?", word, str(folder))
                    shutil.copytree(three_parts / "val" / kind, root / own)
        survey = survey_data(
            find_data(root, needs_test=True, wants_validation=True), cache=root / "survey.json"
        )
        assert (survey.num_train, survey.num_validation, survey.num_test) == (12, 6, 4)
        assert find_data(root, needs_test=True).validation is None
