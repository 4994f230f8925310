"""Images, arrays, DICOM, states and configs that mean harm: bounded, or one clear line."""

import io
import os
import struct
import zipfile
import zlib

import cv2
import h5py
import numpy as np
import pytest
import torch

from studies.prepare.groups import read_groups
from studies.sunnybrook.dicom import read_slice
from trainer.bounded import BoundError
from trainer.config import load_config
from trainer.data import arrays, headers, room
from trainer.data.arrays import ArrayFiles, list_sources
from trainer.data.headers import read_header
from trainer.data.images import read_image
from trainer.data.intensity import IntensityRange
from trainer.errors import ConfigError, DataError
from trainer.output.state import check_buffers, check_size, checked_state

# --- images -----------------------------------------------------------------------------------


def png(path, value=7, size=(32, 24), dtype=np.uint8):
    assert cv2.imwrite(str(path), np.full(size, value, dtype))
    return path


def test_hole_at_the_end_of_an_image_is_not_read(tmp_path):
    path = png(tmp_path / "a.png")
    os.truncate(path, 2**34)
    with pytest.raises(DataError, match="17,179,869,184 bytes for 24x32 pixels"):
        read_image(path, gray=True)


@pytest.mark.parametrize("kind", ["jpg", "gif"])
def test_header_is_looked_for_in_the_beginning_only(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    start = {"jpg": b"\xff\xd8\xff\xe0\0\4ab", "gif": b"GIF89a\5\0\5\0\0\0\0"}[kind]
    path.write_bytes(start)
    os.truncate(path, 2**36)  # minutes, byte by byte
    with pytest.raises(DataError, match="no PNG"):
        read_header(path)


def test_sixteen_bits_of_colour_count_by_their_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(headers, "MAX_PIXEL_BYTES", 4000)
    read_header(png(tmp_path / "gray.png"))
    png(tmp_path / "deep.png", size=(32, 24, 3), dtype=np.uint16)
    with pytest.raises(DataError, match="768 pixels of 8 bytes; more than 4,000"):
        read_header(tmp_path / "deep.png")


def test_images_that_are_large_together_are_read_one_by_one():
    import threading

    at_once, most, lock = 0, 0, threading.Lock()
    header = headers.Header(100, 100)
    limited = room.Room(total=50_000)

    def read():
        nonlocal at_once, most
        with limited.of(header, header):
            with lock:
                at_once += 1
                most = max(most, at_once)
            with lock:
                at_once -= 1

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_jpeg_of_a_thousand_scans_is_refused(tmp_path, monkeypatch):
    from trainer.data import decoding

    monkeypatch.setattr(decoding, "MAX_SCANNED", 20 * 32 * 24)
    path = tmp_path / "a.jpg"
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    content = cv2.imencode(".jpg", np.zeros((32, 24, 3), np.uint8), options)[1].tobytes()
    path.write_bytes(content)
    read_image(path, gray=True)
    start = content.rindex(b"\xff\xda")
    path.write_bytes(content[:start] + content[start:-2] * 30 + content[-2:])
    with pytest.raises(DataError, match=r"\d+ scans"):
        read_image(path, gray=True)


def test_tiff_of_a_vast_tile_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tags = [(256, 4, 8), (257, 4, 8), (258, 3, 8), (322, 4, 65536), (323, 4, 65536)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    path.write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4))
    with pytest.raises(DataError, match="no PNG"):
        read_header(path)


# --- arrays -----------------------------------------------------------------------------------


def test_npz_is_refused_by_its_headers_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_PACKED_BYTES", 2**20)
    np.savez_compressed(tmp_path / "a.npz", small=np.zeros(2**17), large=np.zeros(2**17 + 1))
    with pytest.raises(DataError, match=r"'large.npy' in it has 1,048,584 bytes, more than"):
        list_sources(tmp_path / "a.npz", "numpy", "data.input_path")


def test_header_of_an_npy_is_read_so_far_only(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1))
        file.truncate(2**33)
    with pytest.raises(DataError, match="cannot be read"):
        list_sources(tmp_path / "a.npy", "numpy", "data.input_path")


def test_cut_npy_is_one_clear_line(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((40, 40)))
    os.truncate(tmp_path / "a.npy", 1000)
    with pytest.raises(DataError, match=r"a\.npy: cannot be read .*replace or remove it"):
        list_sources(tmp_path / "a.npy", "numpy", "data.input_path")


def test_archive_of_many_arrays_is_opened_once(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", **{str(n): np.full(4, n) for n in range(60)})
    opened = []
    monkeypatch.setattr(
        arrays, "open_zip", lambda path: opened.append(path) or zipfile.ZipFile(path)
    )
    sources, _ = list_sources(tmp_path / "a.npz", "numpy", "data.input_path")
    files = ArrayFiles()
    assert [int(files.read(source)[0]) for source in sources] == [int(s.key) for s in sources]
    assert len(opened) == 2  # to list, and to read
    files._close_archives()


def test_arrays_of_an_npz_are_not_kept_beyond_their_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_OPEN_BYTES", 2000)
    np.savez(tmp_path / "a.npz", **{str(n): np.zeros(100) for n in range(10)})
    sources, _ = list_sources(tmp_path / "a.npz", "numpy", "data.input_path")
    files = ArrayFiles()
    for source in sources:
        files.read(source)
        assert sum(array.nbytes for array in files._open.values()) <= 2000


def test_chunk_of_hdf5_that_unpacks_to_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "UNCHECKED_BYTES", 2**20)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        item = file.create_dataset("x", (8, 8), "u1", chunks=(8, 8), compression="gzip")
        item.id.write_direct_chunk((0, 0), zlib.compress(bytes(2**24)))
    (source,), _ = list_sources(tmp_path / "a.h5", "hdf5", "data.input_path")
    with pytest.raises(DataError, match="unpacks to more than it holds"):
        ArrayFiles().read(source)


@pytest.mark.parametrize(
    ("kind", "name"), [("hdf5", "a.h5"), ("numpy", "a.npy"), ("numpy", "a.npz")]
)
def test_pipe_among_the_arrays_is_not_waited_for(kind, name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="not a regular file"):
        list_sources(tmp_path, kind, "data.input_path")


def test_chunk_of_a_data_set_that_grows_is_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "x", data=np.ones((2, 64, 64)), maxshape=(None, 64, 64), chunks=(512, 64, 64),
            compression="gzip",
        )  # fmt: skip
    (source,), _ = list_sources(tmp_path / "a.h5", "hdf5", "data.input_path")
    assert ArrayFiles().read(source).sum() == 2 * 64 * 64


# --- DICOM ------------------------------------------------------------------------------------


def dicom(path, syntax="1.2.840.10008.1.2.1", **tags):
    pydicom = pytest.importorskip("pydicom")
    pixels = tags.pop("pixels", np.arange(16, dtype="<u2").reshape(4, 4))
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = tags.pop("size", pixels.shape)
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    for key, value in tags.items():
        element = pydicom.DataElement(key, pydicom.datadict.dictionary_VR(key), "1")
        element._value = value  # as written by somebody who does not look
        dataset[key] = element
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("RescaleSlope", "nan", "RescaleSlope"),
        ("RescaleIntercept", "1e308", "leave nothing of its values"),
        ("RescaleSlope", "1e-300", "leave nothing of its values"),
        ("WindowCenter", "inf", "WindowCenter"),
    ],
)
def test_nonsense_in_dicom_is_refused(key, value, said, tmp_path):
    path = dicom(tmp_path / "a.dcm", **{key: value, "WindowWidth": "100"})
    with pytest.raises(DataError, match=said):
        read_slice(path)


def test_window_beyond_all_values_is_refused_and_a_narrow_one_is_not(tmp_path):
    window = {"WindowCenter": "1e9", "WindowWidth": "100"}
    with pytest.raises(DataError, match=r"beyond all values .*--window range"):
        read_slice(dicom(tmp_path / "a.dcm", **window))
    assert read_slice(tmp_path / "a.dcm", "range").max() == 65535
    narrow = {"WindowCenter": "8", "WindowWidth": "2"}
    assert set(read_slice(dicom(tmp_path / "b.dcm", **narrow)).ravel()) == {0, 65535}


def test_dicom_that_says_less_than_it_holds_is_refused(tmp_path):
    with pytest.raises(DataError, match="says 1x1 pixels, 2 bytes, and holds 32"):
        read_slice(dicom(tmp_path / "a.dcm", size=(1, 1)))


def test_deflated_dicom_is_unpacked_so_far_only(tmp_path, monkeypatch):
    from studies.sunnybrook import dicom_pixels

    path = dicom(tmp_path / "a.dcm", "1.2.840.10008.1.2.1.99", pixels=np.zeros((800, 800), "<u2"))
    assert read_slice(path).shape == (800, 800)
    monkeypatch.setattr(dicom_pixels, "SPARE_BYTES", 2**20)
    with pytest.raises(DataError, match="unpacks to more than"):
        read_slice(path)


# --- states, configs, tables ------------------------------------------------------------------


def state(**changes):
    fields = {
        "epoch": 1, "time_s": 2.0, "config": {}, "network": {}, "scheduler": None,
        "optimizer": {"state": {}, "param_groups": []}, "keeper": (0.5, "model_checkpoint_1.pt"),
        "rng": torch.zeros(8, dtype=torch.uint8), "cuda_rng": None,
        "replaced": ["ck/model_checkpoint_0.pt"],
    }  # fmt: skip
    return {**fields, **changes}


@pytest.mark.parametrize(
    "field, value",
    [
        ("keeper", (-1.0, "/any/file")), ("keeper", (0.5, "../config.json")), ("keeper", 5),
        ("keeper", (float("nan"), None)), ("replaced", ["resume.pt"]), ("replaced", "a"),
        ("epoch", 10**30), ("epoch", -1), ("epoch", True), ("time_s", "x"), ("config", 5),
        ("network", [1]), ("network", {"a": torch.zeros(2, dtype=torch.complex64)}),
        ("optimizer", {"state": 5}), ("scheduler", 5), ("rng", torch.zeros(8)),
        ("intensity_range", 7),
    ],
)  # fmt: skip
def test_every_field_of_a_state_is_checked(field, value):
    assert checked_state(state()).epoch == 1
    with pytest.raises(BoundError, match=f"its {field} is not what a run writes"):
        checked_state(state(**{field: value}))


def test_moments_of_another_shape_are_refused():
    weight = torch.nn.Parameter(torch.zeros(3, 3))
    optimizer = torch.optim.Adam([weight])
    optimizer.state[weight] = {"exp_avg": torch.zeros(3), "step": torch.tensor(1.0)}
    with pytest.raises(ValueError, match="exp_avg has the shape"):
        check_buffers(optimizer)
    optimizer.state[weight] = {"step": torch.tensor(-1e30)}
    with pytest.raises(ValueError, match=r"has done -1e\+30 steps"):
        check_buffers(optimizer)
    with pytest.raises(ValueError, match="too large a state"):
        check_size({"state": {0: {"x": torch.zeros(2**24)}}}, {"w": weight})


def test_range_of_no_numbers_is_none():
    good = {"low": 0, "high": 5.0, "bits": 16}
    assert IntensityRange.of_checkpoint(good) is not None
    for change in ({"high": float("inf")}, {"low": float("nan")}, {"bits": 10**9}):
        assert IntensityRange.of_checkpoint({**good, **change}) is None


def test_device_or_depth_in_the_place_of_a_config_is_one_line(tmp_path):
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"zero\.json: not a regular file"):
        load_config(tmp_path / "zero.json")
    (tmp_path / "deep.json").write_text('{"a":' * 5000)
    with pytest.raises(ConfigError, match=r"deep\.json: .*nested deeper"):
        load_config(tmp_path / "deep.json")


def test_pipe_in_the_place_of_a_table_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "groups.csv")
    with pytest.raises(DataError, match=r"groups\.csv: no table of groups \(not a regular file"):
        read_groups(tmp_path)


def test_members_are_unpacked_so_far_only(tmp_path):
    from trainer.zipped import open_zip, read_member

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(2**20))
    # The list says that it is small.
    data = content.getvalue()
    place = data.rindex(b"PK\x01\x02") + 24
    (tmp_path / "a.zip").write_bytes(data[:place] + struct.pack("<I", 10) + data[place + 4 :])
    with open_zip(tmp_path / "a.zip") as archive, pytest.raises((BoundError, zipfile.BadZipFile)):
        read_member(archive, archive.getinfo("a"), 100)
