"""Layouts of data folders, the survey's cache, and the split of a validation part."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import names, write_discs

from hpo.dataset.content_hashes import check_split
from hpo.dataset.datafolder import LAYOUTS, find_data
from hpo.dataset.split import split_validation
from hpo.dataset.survey import survey_data
from hpo.errors import UsageError
from hpo.folders import replace_folder
from trainer.errors import DataError


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

    age(root)
    first = survey()
    assert calls[-17:] == [*range(1, 18)]
    assert survey() == first
    assert not calls
    image = root / "train/inputs/img 00.png"
    cv2.imwrite(str(image), np.zeros((32, 32), np.uint8))
    assert survey().fingerprint != first.fingerprint
    assert calls[-17:] == [*range(1, 18)]


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


# --- what identifies data ----------------------------------------------------------------------


def large_mask(value: int) -> np.ndarray:
    """Return a mask whose file, uncompressed, differs behind its first 64 KiB alone."""
    mask = np.zeros((600, 600), np.uint8)
    mask[560:] = 255  # BMP has the last rows first
    mask[:100, 100:500] = value
    return mask


@pytest.fixture
def large(tmp_path: Path) -> Path:
    root = tmp_path / "large"
    for part, number in (("train", 4), ("test", 1)):
        for kind in ("inputs", "targets"):
            (root / part / kind).mkdir(parents=True)
            for index in range(number):
                mask = large_mask(255) if kind == "targets" else large_mask(100 + index)
                cv2.imwrite(str(root / part / kind / f"{index}.bmp"), mask)
    return root


def test_masks_corrected_behind_the_first_64_kib_are_other_data(large, tmp_path: Path) -> None:
    folder, cache = find_data(large, needs_test=True), tmp_path / "study/survey.json"
    first = survey_data(folder, cache=cache)
    path = large / "train/targets/2.bmp"
    before = path.read_bytes()
    cv2.imwrite(str(path), large_mask(0))
    assert path.stat().st_size == len(before)
    assert path.read_bytes()[:65536] == before[:65536]
    second = survey_data(folder, cache=cache)
    assert second.fingerprint != first.fingerprint
    assert second.coding.counts != first.coding.counts
    path.write_bytes(before)
    assert survey_data(folder, cache=cache) == first


def test_unchanged_files_are_not_read_again(large: Path, tmp_path: Path, monkeypatch) -> None:
    age(large)
    folder, cache = find_data(large, needs_test=True), tmp_path / "study/survey.json"
    survey_data(folder, cache=cache)
    split_validation(folder, tmp_path / "study/split", fraction=0.25)
    monkeypatch.setattr("hpo.dataset.content_hashes._read", None)  # is not called
    survey_data(folder, cache=cache)
    split_validation(folder, tmp_path / "study/split", fraction=0.25)


def age(root: Path) -> None:
    """Wait until no file is so young that it may change unseen."""
    newest = max(path.stat().st_ctime for path in root.rglob("*"))
    time.sleep(max(0, newest + 0.1 - time.time()))


def test_split_of_files_that_were_changed_in_place_is_made_anew(large, tmp_path: Path) -> None:
    folder = find_data(large, needs_test=True)
    split = split_validation(folder, tmp_path / "study/split", fraction=0.25)
    path = large / "train/targets/2.bmp"
    before = path.read_bytes()
    path.write_bytes(before[:-1] + b"\7")  # through the hard link, too
    path.unlink()
    path.write_bytes(before)  # the data are the old ones again, the split is not
    assert split_validation(folder, tmp_path / "study/split", fraction=0.25) == split
    (link,) = split.root.rglob("targets/2.bmp")
    assert link.read_bytes() == before
    assert not list((tmp_path / "study").glob(".*.tmp"))


def test_changed_split_is_refused_to_who_repeats_a_trial(large: Path, tmp_path: Path) -> None:
    split = split_validation(find_data(large, needs_test=True), tmp_path / "split", fraction=0.25)
    check_split(split.root, lambda done, total: None)
    (link,) = split.root.rglob("targets/2.bmp")
    link.write_bytes(b"other")
    with pytest.raises(UsageError, match=r"1 file is not one of those .*targets/2\.bmp"):
        check_split(split.root, lambda done, total: None)


def test_parts_of_different_bits_are_refused_before_the_first_trial(discs, tmp_path: Path) -> None:
    root = Path(shutil.copytree(discs, tmp_path / "data"))
    for path in (root / "test/inputs").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path)).astype(np.uint16))
    with pytest.raises(DataError, match=r"8 bits a channel and some 16 \(img 00\.png 8, "):
        survey_data(find_data(root, needs_test=True), cache=tmp_path / "survey.json")


# --- near-duplicates ---------------------------------------------------------------------------


def write_copies(discs: Path, root: Path) -> Path:
    """Copy the discs, with three images resaved: nearly the same as the first three."""
    shutil.copytree(discs, root)
    for index in range(3):
        image = cv2.imread(str(root / f"train/inputs/img {index:02d}.png"), 0)
        cv2.imwrite(str(root / f"train/inputs/copy {index}.jpg"), image)
        shutil.copy(
            root / f"train/targets/img {index:02d}.png", root / f"train/targets/copy {index}.png"
        )
    return root


def test_near_duplicates_are_named_and_stay_on_one_side(discs, tmp_path: Path, run) -> None:
    root = write_copies(discs, tmp_path / "data")
    folder = find_data(root, needs_test=True)
    cache = tmp_path / "survey.json"
    survey = survey_data(folder, cache=cache)
    expected = tuple((f"copy {index}", f"img {index:02d}") for index in range(3))
    assert survey.alike == expected
    assert survey_data(folder, cache=cache).alike == expected  # from the cache
    for fraction in (0.2, 0.4, 0.6):
        split = split_validation(
            folder, tmp_path / f"split {fraction}", fraction=fraction, alike=survey.alike
        )
        assert split.test is not None
        validation = {path.stem for path in (split.root / split.test.inputs).iterdir()}
        for cluster in expected:
            assert len(validation.intersection(cluster)) in (0, 2)
    result = run(
        "rml-optimize", "--data", root, "--num-trials", "1", "--layers", "unet:width=4,depth=2",
        "--resize", "32,32", "--dry-run", "--select-on", "validation",
    )  # fmt: skip
    text = " ".join(result.stdout.replace("|", " ").split())
    assert (
        "6 images in 3 clusters: copy 0 ~ img 00; copy 1 ~ img 01; copy 2 ~ img 02; kept" in text
    )


def test_set_in_which_everything_looks_alike_is_split_all_the_same(discs, tmp_path: Path) -> None:
    root = Path(shutil.copytree(discs, tmp_path / "data"))
    image = cv2.imread(str(root / "train/inputs/img 00.png"), 0)
    for index, path in enumerate(sorted((root / "train/inputs").iterdir())):
        cv2.imwrite(str(path), image + index % 2)
    folder = find_data(root, needs_test=True)
    survey = survey_data(folder, cache=tmp_path / "survey.json")
    assert survey.alike == ()
    split = split_validation(folder, tmp_path / "s", fraction=0.25, alike=survey.alike)
    assert len(list((split.root / "validation/inputs").iterdir())) == 3
