"""Folders as people have them: the command that an error proposes makes a data folder of each."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image
from support import one_error

from hpo.data.cli import main
from hpo.dataset.survey import find_data, survey_data

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


def test_validation_folder_that_is_not_read_is_named(discs: Path, tmp_path: Path, run) -> None:
    root = Path(shutil.copytree(discs, tmp_path / "data"))
    shutil.copytree(root / "test", root / "val")
    result = run("rml-optimize", "--data", root, "--resize", "32,32", "--no-gpu", "--dry-run")
    assert "val/ is not read: a search splits its own validation part off" in result.stdout
    assert "val/ is not read" in run("rml-data", "check", root).stdout
