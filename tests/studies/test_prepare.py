"""`rml-data prepare` on publishers' archives and on any folder of pairs, as a user runs it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from studies_archives import (
    BUSI,
    Rml,
    disc,
    fingerprint,
    picture,
    trimap,
    write,
    write_busi,
    write_kaggle_3m,
    write_pets,
)
from support import BIN, Run, clean_environment, names, one_error

from hpo.dataset.datafolder import find_data
from hpo.dataset.survey import survey_data
from studies.prepare.similarity import similar_pairs, thumbnail
from studies.prepare.split import draw_test_groups, merge_groups


def prepared(root: Path, kind: str = "targets") -> dict[str, Path]:
    """Return stem -> file of both parts."""
    return {path.stem: path for path in root.glob(f"*/{kind}/*")}


def manifest(root: Path) -> dict:
    return json.loads((root / "prepared.json").read_text())


def groups(root: Path) -> dict[str, tuple[str, str]]:
    with (root / "groups.csv").open() as file:
        return {row["name"]: (row["group"], row["part"]) for row in csv.DictReader(file)}


def test_breast_masks_are_joined_and_the_source_is_left_alone(
    rml_data: Rml, tmp_path: Path
) -> None:
    source = write_busi(tmp_path / "my (archive)")
    before = fingerprint(source)
    result = rml_data("prepare", "breast_cancer", "--source", source, "--out", "data",
                 "--test-fraction", 0.3)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert fingerprint(source) == before
    masks, images = prepared(tmp_path / "data"), prepared(tmp_path / "data", "inputs")
    assert len(masks) == len(images) == sum(BUSI.values())
    union = disc((16, 16), 8) | disc((36, 36), 6) | disc((36, 12), 5)
    np.testing.assert_array_equal(cv2.imread(str(masks["benign_004"]), -1), union)
    original = source / "Dataset_BUSI_with_GT/benign/benign (4).png"
    assert images["benign_004"].read_bytes() == original.read_bytes()
    # the copy that is darker by a tenth stays on its original's side, though of another class
    where = groups(tmp_path / "data")
    assert where["benign_001"] == where["malignant_005"]
    assert manifest(tmp_path / "data")["near_duplicates"] == [["benign_001", "malignant_005"]]
    assert "the whole archive has 437" in result.stdout
    survey = survey_data(find_data(tmp_path / "data", needs_test=True), cache=tmp_path / "s.json")
    assert survey.coding.kind == "binary"


def test_half_unpacked_archive_names_what_is_missing(rml_data: Rml, tmp_path: Path) -> None:
    source = write_busi(tmp_path / "busi")
    for path in (source / "Dataset_BUSI_with_GT/normal").iterdir():
        path.unlink()
    (source / "Dataset_BUSI_with_GT/normal").rmdir()
    error = one_error(rml_data("prepare", "breast_cancer", "--source", source, "--out", "o"))
    assert "missing: normal/" in error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("study", "page"),
    [
        ("breast_cancer", "kaggle.com/datasets/aryashah2k"),
        ("brain_mri", "kaggle.com/datasets/mateuszbuda"),
        ("oxford_pets", "robots.ox.ac.uk"),
        ("sunnybrook", "cardiacatlas.org"),
        ("jsrt", "cloud.imi.uni-luebeck.de"),
    ],
)
def test_missing_archive_names_the_publisher(rml_data: Rml, study: str, page: str) -> None:
    result = rml_data("prepare", study, "--source", "nowhere", "--out", "data")
    assert page in one_error(result)


def test_brain_slices_are_split_by_patient(rml_data: Rml, tmp_path: Path) -> None:
    source = write_kaggle_3m(tmp_path)
    lonely = source / "kaggle_3m/TCGA_CS_4941_19960909/TCGA_CS_4941_19960909_3_mask.tif"
    lonely.unlink()
    result = rml_data("prepare", "brain_mri", "--source", source, "--out", "data",
                 "--test-fraction", 0.25)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "TCGA_CS_4941_19960909_3.tif: slice without a mask" in result.stdout
    parts: dict[str, set[str]] = {}
    for group, part in groups(tmp_path / "data").values():
        parts.setdefault(group, set()).add(part)
    assert len(parts) == 4
    assert sorted(map(len, parts.values())) == [1, 1, 1, 1]
    assert len(names(list((tmp_path / "data/test/inputs").iterdir()))) in (3, 4)
    images, masks = prepared(tmp_path / "data", "inputs"), prepared(tmp_path / "data")
    assert images.keys() == masks.keys()
    assert "TCGA_DU_5855_19951217_02" in images


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """The pets' archive with a GIF, a truncated JPEG and a trimap with label 4."""
    source = write_pets(tmp_path / "pets")
    Image.new("RGB", (48, 48)).save(source / "images/Abyssinian_2.jpg", format="GIF")
    broken = source / "images/Abyssinian_3.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    labels = trimap(4)
    labels[0, 0] = 4
    write(source / "annotations/trimaps/Abyssinian_4.png", labels)
    return source


def test_pets_labels_start_at_0_and_what_is_broken_is_listed(
    rml_data: Rml, tmp_path: Path, pets: Path
) -> None:
    result = rml_data("prepare", "oxford_pets", "--source", pets, "--out", "data")
    assert result.returncode == 0, result.stderr
    listed = {
        Path(entry["file"]).name: entry["reason"]
        for entry in manifest(tmp_path / "data")["skipped"]
    }
    assert sorted(listed) == [
        "Abyssinian_101.mat", "Abyssinian_2.jpg", "Abyssinian_3.jpg", "Abyssinian_4.jpg"
    ]  # fmt: skip
    assert "GIF" in listed["Abyssinian_2.jpg"]
    assert "truncated" in listed["Abyssinian_3.jpg"]
    assert "Abyssinian_4.png: labels 4; expected 1, 2, 3" in listed["Abyssinian_4.jpg"]
    assert all(name in result.stdout for name in listed)
    masks = prepared(tmp_path / "data")
    assert len(masks) == 12 - 3
    for stem, path in masks.items():
        expected = trimap(int(stem.rpartition("_")[2])) - 1
        np.testing.assert_array_equal(cv2.imread(str(path), -1), expected)


def test_first_bad_file_stops_where_that_is_asked(
    rml_data: Rml, tmp_path: Path, pets: Path
) -> None:
    (pets / "images/Abyssinian_101.mat").unlink()
    for name in ("Abyssinian_2", "Abyssinian_3"):
        (pets / f"images/{name}.jpg").unlink()
    result = rml_data("prepare", "oxford_pets", "--source", pets, "--out", "data",
                 "--on-error", "stop")  # fmt: skip
    assert "Abyssinian_4.png: labels 4" in one_error(result)
    assert not (tmp_path / "data").exists()


def test_killed_preparation_goes_on_and_ends_the_same(run: Run, tmp_path: Path) -> None:
    source = write_pets(tmp_path / "pets", num_each=100)
    arguments = ["prepare", "oxford_pets", "--source", str(source), "--out"]
    assert run("rml-data", *arguments, "whole").returncode == 0
    killed = subprocess.Popen(
        [str(BIN / "rml-data"), *arguments, "killed"], cwd=tmp_path, env=clean_environment()
    )
    journal = tmp_path / ".killed.partial/journal.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 30:
        assert killed.poll() is None
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed").exists()
    num_staged = journal.read_bytes().count(b"\n")
    assert num_staged < 200
    first = {path: path.stat().st_ino for path in journal.parent.glob("inputs/Abyssinian_1*.jpg")}
    # not read again: its source may even be gone from the decoder's sight
    journal.write_bytes(journal.read_bytes() + b'{"name": "torn')
    result = run("rml-data", *arguments, "killed")
    assert result.returncode == 0, result.stderr
    assert not journal.parent.exists()
    inodes = {path.stat().st_ino for path in (tmp_path / "killed").rglob("*.jpg")}
    assert len(inodes & set(first.values())) > 10
    contents = [
        {name: digest for name, (digest, _) in fingerprint(tmp_path / out).items()
         if name != "prepared.json"}
        for out in ("whole", "killed")
    ]  # fmt: skip
    assert contents[0] == contents[1]


def test_second_run_finds_all_done_and_other_settings_are_refused(
    rml_data: Rml, tmp_path: Path
) -> None:
    source = write_pets(tmp_path / "pets")
    arguments = ["prepare", "oxford_pets", "--source", source, "--out", "data"]
    assert rml_data(*arguments).returncode == 0
    before = fingerprint(tmp_path / "data")
    assert "prepared before" in rml_data(*arguments).stdout
    assert "other settings" in one_error(rml_data(*arguments, "--seed", 1))
    assert fingerprint(tmp_path / "data") == before


def test_somebody_elses_folder_is_not_touched(rml_data: Rml, tmp_path: Path) -> None:
    source = write_pets(tmp_path / "pets")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/thesis.txt").write_text("mine")
    result = rml_data("prepare", "oxford_pets", "--source", source, "--out", "data")
    assert "holds something else" in one_error(result)
    assert names(list((tmp_path / "data").iterdir())) == ["thesis.txt"]


# --- any folder -------------------------------------------------------------------------------


def write_patients(root: Path) -> None:
    for patient in ("anna", "bert", "cleo", "dora"):
        for n in range(4):
            seed = sum(map(ord, patient)) * 100 + n
            write(root / f"x/{patient}/scan [{n}].tif", picture(seed))
            write(root / f"y/{patient}/scan [{n}]_mask.png", disc((20, 20), 4 + n))


def test_any_folder_is_split_by_the_patient_in_the_path(rml_data: Rml, tmp_path: Path) -> None:
    write_patients(tmp_path)
    (tmp_path / "y/dora/scan [3]_mask.png").unlink()
    result = rml_data("prepare", "folder", "--inputs", "x/*/*.tif",
                 "--targets", "y/{parent}/{stem}_mask.png", "--group", "^[a-z]+",
                 "--test-fraction", 0.25, "--out", "data")  # fmt: skip
    assert result.returncode == 0, result.stderr
    where = groups(tmp_path / "data")
    assert len(where) == 15
    assert where["anna__scan_0"][0] == "anna"
    assert len({group for group, part in where.values() if part == "test"}) == 1
    assert "x/dora/scan [3].tif: no mask y/dora/scan [3]_mask.png" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--inputs", "none/*.png"], "--inputs 'none/*.png': no such files"),
        (["--targets", "y/mask.png"], "expected {stem} or {name}"),
        (["--targets", "y/{patient}/{stem}.png"], "unknown {patient}; known"),
        (["--group", "("], "not a regular expression"),
        (["--group", "zzz"], "does not match"),
        (["--targets", "y/{stem}_seg.png"], "no image with a mask"),
        (["--inputs", "v/*.nii.gz"], "med2image"),
        (["--inputs", "v/*.dcm"], "dcm2img"),
    ],
)
def test_patterns_that_cannot_work_are_refused(
    rml_data: Rml, tmp_path: Path, arguments: list[str], message: str
) -> None:
    write_patients(tmp_path)
    (tmp_path / "v").mkdir()
    (tmp_path / "v/brain.nii.gz").write_bytes(b"")
    (tmp_path / "v/1.dcm").write_bytes(b"")
    base = {"--inputs": "x/*/*.tif", "--targets": "y/{parent}/{stem}_mask.png", "--out": "data"}
    merged = base | {arguments[0]: arguments[1]}
    result = rml_data("prepare", "folder", *(part for item in merged.items() for part in item))
    assert message in one_error(result)
    assert not (tmp_path / "data").exists()


def test_images_that_near_duplicates_join_are_not_called_one_patient(
    rml_data: Rml, tmp_path: Path
) -> None:
    for index, patient in enumerate(("anna", "bert", "cleo")):
        for n in range(2):
            image = np.clip(picture(7).astype(int) - 3 * index - n, 0, 255).astype(np.uint8)
            write(tmp_path / f"x/{patient}_{n}.png", image)
            write(tmp_path / f"y/{patient}_{n}.png", disc((20, 20), 4 + n))
    folder = ("prepare", "folder", "--inputs", "x/*.png", "--targets", "y/{name}")
    command = (*folder, "--out", "data")
    error = one_error(rml_data(*command, "--group", "^[a-z]+"))
    assert "near-duplicates join all 6 images of 3 groups" in " ".join(error.split())
    assert "anna_0 ~ bert_0" in error
    assert "of one group" not in error
    assert "near-duplicates join all 6 images," in " ".join(one_error(rml_data(*command)).split())
    for patient in ("bert", "cleo"):
        for n in range(2):
            (tmp_path / f"x/{patient}_{n}.png").unlink()
    error = one_error(rml_data(*command, "--group", "^[a-z]+"))
    assert "all 2 images are of one group (anna); a test part needs a second one" in error


# --- similarity and split ---------------------------------------------------------------------


def test_resaved_cropped_and_scaled_copies_are_like_their_original() -> None:
    original = cv2.cvtColor(picture(7, 128), cv2.COLOR_BGR2GRAY)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", original, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 0)
    copies = [
        jpeg,
        original[1:-1, 1:-1],
        cv2.resize(original, (80, 100)),
        (original * 0.7 + 20).astype(np.uint8),
    ]
    others = [cv2.cvtColor(picture(seed, 128), cv2.COLOR_BGR2GRAY) for seed in range(20, 60)]
    flat = [np.zeros((64, 64), np.uint8)] * 2
    small = [thumbnail(image) for image in (original, *copies, *others, *flat)]
    among_copies = {(i, j) for i in range(5) for j in range(i + 1, 5)}
    assert set(similar_pairs(small)) == among_copies


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=12),
    fraction=st.floats(0.02, 0.9),
    seed=st.integers(0, 3),
)
def test_test_part_is_whole_groups_near_the_share(
    sizes: list[int], fraction: float, seed: int
) -> None:
    groups = [f"p{i}" for i, size in enumerate(sizes) for _ in range(size)]
    strata = dict.fromkeys(groups, "")
    chosen = draw_test_groups(groups, strata, fraction=fraction, seed=seed)
    assert chosen == draw_test_groups(groups, strata, fraction=fraction, seed=seed)
    assert 0 < len(chosen) < len(sizes)
    count = sum(group in chosen for group in groups)
    assert abs(count - fraction * len(groups)) <= max(sizes)


def test_pairs_of_images_merge_their_groups() -> None:
    assert merge_groups(["a", "a", "b", "c", "d"], [(1, 2), (2, 3)]) == ["a", "a", "a", "a", "d"]
