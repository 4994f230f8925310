"""Sunnybrook's DICOM and contours, JSRT's tensors: against pydicom, matplotlib and the course."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_rescale, apply_windowing
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    MRImageStorage,
    RLELossless,
    generate_uid,
)
from studies_archives import Rml
from support import REAL, one_error, require

from studies.sunnybrook.dicom import fill_contour, read_slice
from trainer.data.images import read_image, read_mask
from trainer.errors import DataError

SIZE = 64


def pixels(seed: int) -> NDArray[np.int16]:
    """Return a smooth slice of up to 2,000 levels."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 2000, (8, 8)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (SIZE, SIZE)), dtype=np.int16)


def write_dicom(path: Path, values: NDArray[Any], syntax: str = ExplicitVRLittleEndian,
                **tags: Any) -> None:  # fmt: skip
    """Write a slice as a scanner does; `syntax` is one that pydicom writes by itself."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality, dataset.SamplesPerPixel = "MR", 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = values.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, int(values.dtype == np.int16)
    is_big = syntax == ExplicitVRBigEndian
    dataset.PixelData = values.astype(values.dtype.newbyteorder(">" if is_big else "<")).tobytes()
    dataset["PixelData"].VR = "OW"
    for key, value in tags.items():
        if value is None:
            delattr(dataset, key)
        else:
            setattr(dataset, key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    if syntax == RLELossless:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(RLELossless, values, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)


def recode(source: Path, target: Path, syntax: str) -> None:
    """Write a DICOM file anew in a compressed transfer syntax, with GDCM."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    names = {JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
             JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless}  # fmt: skip
    change.SetTransferSyntax(gdcm.TransferSyntax(names[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian,
     ExplicitVRBigEndian, RLELossless, JPEGLosslessSV1, JPEG2000Lossless],
)  # fmt: skip
def test_every_transfer_syntax_gives_the_same_pixels(tmp_path: Path, syntax: str) -> None:
    values = pixels(1)
    if syntax in (JPEGLosslessSV1, JPEG2000Lossless):
        write_dicom(tmp_path / "plain.dcm", values)
        recode(tmp_path / "plain.dcm", tmp_path / "1.dcm", syntax)
    else:
        write_dicom(tmp_path / "1.dcm", values, syntax)
    assert pydicom.dcmread(tmp_path / "1.dcm").file_meta.TransferSyntaxUID == syntax
    low, high = int(values.min()), int(values.max())
    expected = np.rint((values.astype(float) - low) / (high - low) * 65535)
    np.testing.assert_array_equal(read_slice(tmp_path / "1.dcm"), expected)


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "700", "WindowWidth": "900"},
        {"WindowCenter": ["700", "20"], "WindowWidth": ["900", "30"]},
        {"WindowCenter": "300", "WindowWidth": "800", "RescaleSlope": "0.5",
         "RescaleIntercept": "-100"},
        {"WindowCenter": "-50", "WindowWidth": "2500", "PhotometricInterpretation": "MONOCHROME1"},
    ],
)  # fmt: skip
def test_rescale_and_window_are_those_of_pydicom(tmp_path: Path, tags: dict[str, Any]) -> None:
    write_dicom(tmp_path / "1.dcm", pixels(2), **tags)
    dataset = pydicom.dcmread(tmp_path / "1.dcm")
    shown = apply_windowing(apply_rescale(dataset.pixel_array, dataset), dataset)
    slope, intercept = (float(dataset.get(key, default)) for key, default in
                        (("RescaleSlope", 1), ("RescaleIntercept", 0)))  # fmt: skip
    full = np.array([-32768, 32767]) * slope + intercept  # what pydicom maps the window to
    expected = (shown - full[0]) / (full[1] - full[0])
    if "PhotometricInterpretation" in tags:
        expected = 1 - expected
    np.testing.assert_allclose(read_slice(tmp_path / "1.dcm") / 65535, expected, atol=1e-4)


def test_range_of_the_values_where_that_is_asked(tmp_path: Path) -> None:
    write_dicom(tmp_path / "1.dcm", pixels(3), WindowCenter="10", WindowWidth="4")
    image = read_slice(tmp_path / "1.dcm", window="range")
    assert (image.min(), image.max()) == (0, 65535)


def bare(path: Path, syntax: str | None = None) -> None:
    """Take a DICOM file's preamble away; without `syntax`, all of its head."""
    dataset = pydicom.dcmread(path)
    if syntax is None:
        original, dataset.preamble = dataset.file_meta.TransferSyntaxUID, None
        dataset.file_meta = FileMetaDataset()
        dataset.save_as(path, implicit_vr=original.is_implicit_VR,
                        little_endian=original.is_little_endian)  # fmt: skip
    else:
        path.write_bytes(path.read_bytes()[132:])


@pytest.mark.parametrize("has_syntax", [True, False])
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]
)
def test_file_without_preamble_is_read_as_pydicom_does(
    tmp_path: Path, syntax: str, has_syntax: bool
) -> None:
    path = tmp_path / "1.dcm"
    write_dicom(path, pixels(1), syntax)
    expected = read_slice(path)
    if syntax == RLELossless and not has_syntax:
        return
    bare(path, syntax if has_syntax else None)
    with pytest.raises(pydicom.errors.InvalidDicomError):
        pydicom.dcmread(path)
    dataset = pydicom.dcmread(path, force=True)
    assert ("TransferSyntaxUID" in dataset.file_meta) == has_syntax
    if not has_syntax:
        dataset.file_meta.TransferSyntaxUID = syntax
    values = dataset.pixel_array.astype(float)
    np.testing.assert_array_equal(dataset.pixel_array, pixels(1))
    share = (values - values.min()) / (values.max() - values.min())
    np.testing.assert_array_equal(read_slice(path), np.rint(share * 65535))
    np.testing.assert_array_equal(read_slice(path), expected)


def test_pixels_of_an_unknown_transfer_syntax_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "1.dcm"
    write_dicom(path, pixels(1), RLELossless)
    dataset = pydicom.dcmread(path)
    dataset.file_meta = FileMetaDataset()
    dataset.save_as(path, implicit_vr=False, little_endian=True)
    with pytest.raises(DataError, match=r"1\.dcm: does not say how its pixels are stored"):
        read_slice(path)


@pytest.mark.parametrize("content", [b"", b"hello, this is a text of some length\n" * 20,
                                     bytes(range(256)) * 8, b"\0" * 500])  # fmt: skip
def test_file_that_is_no_dicom_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "1.dcm").write_bytes(content)
    with pytest.raises(DataError, match=r"1\.dcm: not a DICOM file") as caught:
        read_slice(tmp_path / "1.dcm")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"PixelData": None}, "no pixel data"),
        ({"NumberOfFrames": 2}, "several frames"),
        ({"PixelData": b"\0" * 100}, "cannot be decoded"),
    ],
)
def test_slice_that_cannot_be_read_is_named(
    tmp_path: Path, tags: dict[str, Any], message: str
) -> None:
    write_dicom(tmp_path / "7.dcm", pixels(1), **tags)
    with pytest.raises(DataError, match=message) as caught:
        read_slice(tmp_path / "7.dcm")
    assert "7.dcm" in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-300, 3500), st.integers(-300, 3000)),  # hundredths of a pixel
        min_size=3, max_size=12, unique=True,
    )
)  # fmt: skip
def test_fill_is_that_of_an_independent_library(corners: list[tuple[int, int]]) -> None:
    # sorted by angle: a star-shaped polygon, which does not cross itself
    points = np.array(corners) / 100
    around = points - points.mean(axis=0)
    points = points[np.argsort(np.arctan2(around[:, 1], around[:, 0]))]
    mask = fill_contour(points, (28, 33)) == 255
    rows, columns = np.mgrid[:28, :33]
    centres = np.column_stack([columns.ravel(), rows.ravel()])
    closed = np.vstack([points, points[:1]])
    inside = Polygon(closed).contains_points(centres).reshape(mask.shape)
    # The grid has sixteenths of a pixel: only centres this near to the border may differ.
    near = distance_to_border(closed, centres).reshape(mask.shape) < 0.1
    np.testing.assert_array_equal(mask[~near], inside[~near])


def distance_to_border(closed: NDArray[Any], centres: NDArray[Any]) -> NDArray[np.float64]:
    starts, steps = closed[:-1], np.diff(closed, axis=0)
    lengths = np.maximum((steps**2).sum(axis=1), 1e-12)
    offsets = centres[:, None] - starts
    along = np.clip((offsets * steps).sum(axis=2) / lengths, 0, 1)[..., None]
    return np.asarray(np.linalg.norm(offsets - along * steps, axis=2).min(axis=1))


def test_area_of_a_disc_is_not_biased() -> None:
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    areas, plain = [], []
    for centre in np.random.default_rng(0).uniform(30, 32, (40, 2)):
        circle = centre + 15.3 * np.column_stack([np.cos(angle), np.sin(angle)])
        areas.append((fill_contour(circle, (SIZE, SIZE)) > 0).sum())
        canvas = np.zeros((SIZE, SIZE), np.uint8)
        cv2.fillPoly(canvas, [np.rint(circle).astype(np.int32)], 1)
        plain.append(canvas.sum())
    true = np.pi * 15.3**2
    assert abs(np.mean(areas) - true) < 0.01 * true
    assert np.mean(plain) - true > 0.05 * true  # what OpenCV's thick border adds


# --- the archive ----------------------------------------------------------------------------


def write_contour(path: Path, centre: tuple[float, float], radius: float) -> None:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            f"{centre[0] + radius * np.cos(a):.2f} {centre[1] + radius * np.sin(a):.2f} \r\n"
            for a in angle
        )
    )


def write_challenge(root: Path) -> Path:
    """Write challenge_training and ContoursPart3: two series a patient, contours of both kinds."""
    contours = root / "Sunnybrook Cardiac MR Database ContoursPart3/TrainingDataContours"
    for p, (folder, case, series) in enumerate(
        [("SC-HF-I-01", "SC-HF-I-1", 4), ("SC-HYP-03", "SC-HYP-3", 650), ("SC-N-2", "SC-N-2", 898)]
    ):
        for number in (48, 59, 68):
            image = root / "challenge_training" / case / f"IM-{series:04d}-{number:04d}.dcm"
            write_dicom(image, pixels(100 * p + number))
            other = image.with_name(f"IM-{series + 1:04d}-{number:04d}.dcm")
            write_dicom(other, pixels(5000 + 100 * p + number))
            for kind, radius in (("i", 8.0), ("o", 12.0)):
                name = f"IM-0001-{number:04d}-{kind}contour-manual.txt"
                path = contours / folder / "contours-manual/IRCCI-expert" / name
                write_contour(path, (30.5, 29.25), radius)
    return root


def test_challenge_tree_uses_the_short_axis_series(rml_data: Rml, tmp_path: Path) -> None:
    source = write_challenge(tmp_path / "raw")
    result = rml_data("prepare", "sunnybrook", "--source", source, "--out", "data")
    assert result.returncode == 0, result.stderr
    images = {path.stem: path for path in (tmp_path / "data").glob("*/inputs/*")}
    assert len(images) == 9
    dicom = source / "challenge_training/SC-HF-I-1/IM-0004-0048.dcm"
    image = read_image(images["SC-HF-I-1_0048"], gray=True)
    np.testing.assert_array_equal(image[:, :, 0], read_slice(dicom))
    assert image.dtype == np.uint16
    parts = {part: {path.stem[:-5] for path in (tmp_path / "data" / part / "inputs").iterdir()}
             for part in ("train", "test")}  # fmt: skip
    assert not parts["train"] & parts["test"]
    assert len(parts["test"]) == 1


@pytest.mark.parametrize("suffix", [".DCM", ".Dcm", ".dicom", ""])
def test_slices_are_found_whatever_their_suffix(
    rml_data: Rml, tmp_path: Path, suffix: str
) -> None:
    source = write_challenge(tmp_path / "raw")
    for path in sorted(source.rglob("*.dcm")):
        if path.name.endswith("59.dcm"):
            bare(path)
        path.rename(path.with_suffix(suffix))
    for path in sorted(source.rglob("*-icontour-manual.txt")):
        path.rename(path.with_name(path.name.upper()))
    (source / "challenge_training/SC-HF-I-1/VERSION").write_text("1 of 2, a note")
    result = rml_data("prepare", "sunnybrook", "--source", source, "--out", "data")
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "data").glob("*/inputs/*"))) == 9


def test_dicom_without_a_suffix_is_refused_by_name_elsewhere(
    rml_data: Rml, tmp_path: Path
) -> None:
    for part in ("inputs", "targets"):
        write_dicom(tmp_path / "raw" / part / "IM0001", pixels(1))
        write_dicom(tmp_path / "data/train" / part / "1.2.840.5", pixels(1))
    bare(tmp_path / "data/train/inputs/1.2.840.5")
    result = rml_data("prepare", "folder", "--inputs", "raw/inputs/*", "--targets",
                      "raw/targets/{name}", "--out", "x")  # fmt: skip
    assert "dcm2img of DCMTK writes slices as PNG" in one_error(result)
    error = one_error(rml_data("check", "data"))
    assert "no image in data/train/inputs, only 1 DICOM without suffix" in error


def test_outer_contours_and_three_channels(rml_data: Rml, tmp_path: Path) -> None:
    source = write_challenge(tmp_path / "raw")
    result = rml_data("prepare", "sunnybrook", "--source", source, "--out", "data",
                      "--contours", "outer", "--channels", "rgb")  # fmt: skip
    assert result.returncode == 0, result.stderr
    mask = next((tmp_path / "data").glob("*/targets/SC-N-2_0068.png"))
    assert abs((read_mask(mask) == 255).sum() - np.pi * 12**2) < 8
    image = cv2.imread(str(next((tmp_path / "data").glob("*/inputs/SC-N-2_0068.png"))), -1)
    assert image.shape == (SIZE, SIZE, 3)


def test_atlas_tree_needs_its_table(rml_data: Rml, tmp_path: Path) -> None:
    for patient, case in (("SCD0000101", "SC-HF-I-1"), ("SCD0000201", "SC-HF-I-2")):
        for number in (7, 20):
            seed = int(patient[3:]) + number
            write_dicom(tmp_path / f"raw/dicoms/{patient}/{number}.dcm", pixels(seed))
            path = f"raw/contourfiles/{case}/i-contours/IM-0001-{number:04d}-icontour-manual.txt"
            write_contour(tmp_path / path, (30, 30), 9)
    arguments = ["prepare", "sunnybrook", "--source", "raw", "--out", "data"]
    assert "patient_id,original_id" in one_error(rml_data(*arguments))
    (tmp_path / "raw/scd_patientdata.csv").write_text(
        "PatientID,OriginalID,Gender\nSCD0000101,SC-HF-I-01,Male\nSCD0000201,SC-HF-I-02,Male\n"
    )
    result = rml_data(*arguments)
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "data").glob("*/inputs/SC-HF-I-*_00*.png"))) == 4


@pytest.fixture
def flawed(tmp_path: Path) -> Path:
    """A challenge tree with a missing slice, an empty DICOM, and a contour outside the image."""
    source = write_challenge(tmp_path / "raw")
    images = source / "challenge_training/SC-HF-I-1"
    (images / "IM-0004-0048.dcm").unlink()
    write_dicom(images / "IM-0004-0059.dcm", pixels(1), PixelData=None)
    contours = next(source.rglob("SC-HF-I-01/contours-manual/IRCCI-expert"))
    write_contour(contours / "IM-0001-0068-icontour-manual.txt", (60, 30), 9)
    write_contour(contours / "IM-0001-0099-icontour-manual.txt", (30, 30), 9)
    return source


def test_what_cannot_be_used_is_listed_with_its_file(
    rml_data: Rml, tmp_path: Path, flawed: Path
) -> None:
    result = rml_data("prepare", "sunnybrook", "--source", flawed, "--out", "data")
    assert result.returncode == 0, result.stderr
    skipped = json.loads((tmp_path / "data/prepared.json").read_text())["skipped"]
    reasons = {Path(entry["file"]).name: entry["reason"] for entry in skipped}
    assert reasons["IM-0001-0048-icontour-manual.txt"] == "slice 48 of SC-HF-I-1 is missing"
    assert reasons["IM-0001-0099-icontour-manual.txt"] == "slice 99 of SC-HF-I-1 is missing"
    assert "no pixel data" in reasons["IM-0004-0059.dcm"]
    assert "leaves the image: x 51 to 69" in reasons["IM-0004-0068.dcm"]
    assert "IM-0001-0068-icontour-manual.txt" in reasons["IM-0004-0068.dcm"]


def test_flawed_archive_is_refused_where_that_is_asked(
    rml_data: Rml, tmp_path: Path, flawed: Path
) -> None:
    arguments = ["--source", flawed, "--out", "data", "--on-error", "stop"]
    assert "slice 48 of SC-HF-I-1" in one_error(rml_data("prepare", "sunnybrook", *arguments))
    assert not (tmp_path / "data").exists()


def test_images_without_contours_are_half_an_archive(rml_data: Rml, tmp_path: Path) -> None:
    write_dicom(tmp_path / "raw/SC-HF-I-1/IM-0004-0048.dcm", pixels(1))
    result = rml_data("prepare", "sunnybrook", "--source", "raw", "--out", "data")
    assert "missing: contour files" in one_error(result)


def test_real_dicom_gives_all_inner_contours(rml_data: Rml, tmp_path: Path) -> None:
    source = REAL / "sunnybrook"
    if not source.is_dir():
        require("data", f"no {source}")
    result = rml_data("prepare", "sunnybrook", "--source", source, "--out", tmp_path / "data")
    assert result.returncode == 0, result.stderr
    manifest = json.loads((tmp_path / "data/prepared.json").read_text())
    assert manifest["num_train"] + manifest["num_test"] == 96
    assert manifest["skipped"] == []


# --- JSRT -----------------------------------------------------------------------------------


def write_jsrt(root: Path, number: int = 165) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the course's two files, small; the last structure overlaps the first."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(number, 16, 12, generator=generator)
    masks = torch.zeros(number, 5, 16, 12, dtype=torch.uint8)
    for channel in range(5):
        masks[:, channel, 3 * channel : 3 * channel + 4, :10] = 1
    root.mkdir()
    torch.save({"JSRT_img0": images, "JSRT_lms": torch.zeros(number, 166, 2)},
               root / "JSRT_img0_lms.pth")  # fmt: skip
    torch.save(masks, root / "jsrt_seg_masks.pth")
    return images, masks


def test_jsrt_is_what_the_course_makes_of_it(rml_data: Rml, tmp_path: Path) -> None:
    images, onehot = write_jsrt(tmp_path / "raw")
    result = rml_data("prepare", "jsrt", "--source", "raw", "--out", "data")
    assert result.returncode == 0, result.stderr
    assert "160 training and 5 test images" in result.stdout
    expected = torch.zeros(165, 16, 12, dtype=torch.long)
    for channel in range(5):  # the course's own loop
        expected[onehot[:, channel] == 1] = channel + 1
    note = next(text for text in json.loads((tmp_path / "data/prepared.json").read_text())["notes"]
                if "normalize" in text)  # fmt: skip
    undo = json.loads(note[note.index("{") : note.rindex("}") + 1])["normalize"]
    for index, part in ((0, "train"), (159, "train"), (160, "test"), (164, "test")):
        mask = read_mask(tmp_path / f"data/{part}/targets/jsrt_{index:03d}.png")
        np.testing.assert_array_equal(mask, expected[index].numpy())
        image = read_image(tmp_path / f"data/{part}/inputs/jsrt_{index:03d}.png", gray=True)
        restored = (image[:, :, 0] / 65535 - undo["mean"]) / undo["std"]
        np.testing.assert_allclose(restored, images[index].numpy(), atol=2e-4)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        ({"JSRT_img0": Evil()}, None, "not a file of tensors"),
        ({"other": torch.zeros(1)}, None, "expected a dictionary with 'JSRT_img0'"),
        (None, torch.zeros(3, 5, 16, 12), "not of one set"),
        (None, torch.zeros(165, 16, 12), r"expected a tensor \(N, C, H, W\)"),
    ],
)
def test_wrong_tensors_are_refused_and_run_no_code(
    rml_data: Rml, tmp_path: Path, images: Any, masks: Any, message: str
) -> None:
    write_jsrt(tmp_path / "raw")
    if images is not None:
        torch.save(images, tmp_path / "raw/JSRT_img0_lms.pth")
    if masks is not None:
        torch.save(masks, tmp_path / "raw/jsrt_seg_masks.pth")
    error = one_error(rml_data("prepare", "jsrt", "--source", "raw", "--out", "data"))
    assert message.replace("\\", "") in error
    assert not (tmp_path / "owned").exists()


def test_half_of_jsrt_names_the_other_half(rml_data: Rml, tmp_path: Path) -> None:
    write_jsrt(tmp_path / "raw")
    (tmp_path / "raw/jsrt_seg_masks.pth").unlink()
    error = one_error(rml_data("prepare", "jsrt", "--source", "raw", "--out", "data"))
    assert "missing: jsrt_seg_masks.pth" in error
