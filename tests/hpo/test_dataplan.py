"""Layouts of data folders, the survey's cache, and the split of a validation part."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import names, write_discs

from hpo.dataplan import LAYOUTS, find_data, survey_data
from hpo.errors import UsageError
from hpo.folders import replace_folder
from hpo.split import split_validation


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found(discs: Path, tmp_path: Path, layout) -> None:
    for part, source in zip(layout, ("train", "test"), strict=True):
        shutil.copytree(discs / source / "inputs", tmp_path / part.inputs)
        shutil.copytree(discs / source / "targets", tmp_path / part.targets)
    found = find_data(tmp_path, needs_test=True)
    assert (found.train, found.test) == layout


def test_test_part_may_be_missing_unless_it_is_needed(discs: Path, tmp_path: Path) -> None:
    shutil.copytree(discs / "train", tmp_path / "train")
    assert find_data(tmp_path, needs_test=False).test is None
    with pytest.raises(UsageError, match="--select-on validation"):
        find_data(tmp_path, needs_test=True)


def test_survey_is_read_again_only_when_a_file_changes(discs: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(discs, tmp_path / "data"))
    folder, cache = find_data(root, needs_test=True), tmp_path / "survey.json"
    calls: list[int] = []

    def survey():
        calls.clear()
        return survey_data(folder, cache=cache, progress=lambda done, total: calls.append(done))

    first = survey()
    assert len(calls) == 17
    assert survey() == first
    assert not calls
    image = root / "train/inputs/img 00.png"
    cv2.imwrite(str(image), np.zeros((32, 32), np.uint8))
    assert survey().fingerprint != first.fingerprint
    assert len(calls) == 17


def test_survey_says_what_the_data_are(discs: Path, tmp_path: Path) -> None:
    survey = survey_data(find_data(discs, needs_test=True), cache=tmp_path / "s.json")
    assert (survey.num_train, survey.num_test) == (12, 5)
    assert survey.is_gray
    assert survey.coding.kind == "binary"
    assert survey.sizes == ((32, 32), (32, 32))


def test_split_is_a_partition_of_real_files(discs: Path, tmp_path: Path) -> None:
    split = split_validation(find_data(discs, needs_test=True), tmp_path / "split", fraction=0.25)
    assert split.test is not None
    train = names(list((split.root / split.train.inputs).iterdir()))
    validation = names(list((split.root / split.test.inputs).iterdir()))
    assert len(validation) == 3
    assert sorted(train + validation) == names(list((discs / "train/inputs").iterdir()))
    for path in split.root.rglob("*.png"):
        assert not path.is_symlink()  # one would lead nowhere inside a container
        original = discs / "train" / path.parent.name / path.name
        assert path.read_bytes() == original.read_bytes()


def test_split_is_the_same_everywhere(discs: Path, tmp_path: Path) -> None:
    folder = find_data(discs, needs_test=True)
    parts = [
        split_validation(folder, tmp_path / name, fraction=0.3).root / "validation/inputs"
        for name in ("a", "b")
    ]
    assert names(list(parts[0].iterdir())) == names(list(parts[1].iterdir()))


@settings(max_examples=10, deadline=None)
@given(fraction=st.floats(0.1, 0.6), patients=st.integers(3, 6))
def test_groups_are_never_torn(
    tmp_path_factory: pytest.TempPathFactory, fraction: float, patients: int
) -> None:
    root = tmp_path_factory.mktemp("groups")
    write_discs(root / "plain", num_train=12, num_test=1, size=8)
    for part in ("inputs", "targets"):
        for index, path in enumerate(sorted((root / "plain/train" / part).iterdir())):
            path.rename(path.with_name(f"p{index % patients}_slice{index}.png"))
    split = split_validation(
        find_data(root / "plain", needs_test=False),
        root / "split",
        fraction=fraction,
        group_by=r"^(p\d+)_",
    )
    assert split.test is not None
    groups = [
        {path.name.split("_")[0] for path in (split.root / part.inputs).iterdir()}
        for part in (split.train, split.test)
    ]
    assert not groups[0] & groups[1]
    assert len(groups[0] | groups[1]) == patients


def test_replaced_folder_is_whole_and_the_old_one_is_handed_back(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old/which").read_text() == "new"
    assert (tmp_path / "new/which").read_text() == "old"


def test_folder_is_replaced_where_names_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.folders._exchange", lambda first, second: False)
    test_replaced_folder_is_whole_and_the_old_one_is_handed_back(tmp_path)
    assert names(list(tmp_path.iterdir())) == ["new", "old"]
