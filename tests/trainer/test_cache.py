"""The cache of decoded images: the same data as without, and when an entry holds."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cached import BUILT, FOUND, Load, assert_same, entries, make_load
from support import write_discs
from worker import write_pairs, write_png

from trainer.data import reading, stores
from trainer.errors import DataError
from trainer.loading import batches, rowsource


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty folder for the cache, with a blank in its name."""
    return tmp_path / "my cache"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_discs(tmp_path / "data", num_train=6, num_test=3)


@pytest.fixture
def load(cache: Path, images: Path, capsys: pytest.CaptureFixture) -> Load:
    return make_load(images, cache, capsys)


# --- the same as without ----------------------------------------------------------------------


def test_second_load_decodes_nothing_and_gives_the_same(load, monkeypatch) -> None:
    first, log = load()
    assert BUILT in log
    monkeypatch.setattr(reading, "read_image", None)
    second, log = load()
    assert FOUND in log
    assert_same(first, second)
    monkeypatch.undo()
    plain, log = load(cache="off")
    assert log == ""
    assert_same(first, plain)


CODINGS = {
    "class ids": (np.arange(64, dtype=np.uint8).reshape(8, 8) % 3, {}),
    "16 bits": (np.arange(64, dtype=np.uint16).reshape(8, 8) % 3 * 1000, {"mask_values": [0, 1000, 2000]}),  # noqa: E501
    "threshold": (np.arange(64, dtype=np.uint8).reshape(8, 8) * 4, {"mask_threshold": 128}),
    "continuous": (np.arange(64, dtype=np.uint8).reshape(8, 8) * 4, {"target_is_mask": False}),
    "continuous, 16 bits": (
        np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000, {"target_is_mask": False},
    ),
}  # fmt: skip


@pytest.mark.parametrize("size", [[8, 8], [12, 20]])
@pytest.mark.parametrize("name", CODINGS)
def test_every_kind_of_mask_is_the_same_from_memory_and_cache(load, tmp_path, name, size) -> None:
    mask, changes = CODINGS[name]
    root = write_pairs(tmp_path / "coded", [mask, np.ascontiguousarray(mask[:, ::-1])])
    settings = {"transforms": [{"resize": size}], **changes}
    built, log = load(root, **settings)
    assert BUILT in log
    found, log = load(root, **settings)
    assert FOUND in log
    plain, _ = load(root, **settings, cache="off")
    assert_same(built, plain)
    assert_same(found, plain)


def test_masks_of_8_and_16_bits_mix(load, tmp_path) -> None:
    mask = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    root = write_pairs(tmp_path / "mixed", [mask, mask.astype(np.uint16) * 250])
    settings = {"target_is_mask": False, "transforms": []}
    built, _ = load(root, **settings)
    assert_same(built, load(root, **settings, cache="off")[0])
    assert built.train.targets_NHW.dtype == np.uint16
    assert built.train.targets_NHW.max() == 63 * 4 * 250


@pytest.mark.parametrize("num_threads", ["1", "3"])
def test_training_gives_the_same_numbers(worker, monkeypatch, tmp_path, num_threads) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", num_threads)
    settings = {"num_epochs": 2, "data__transforms": [{"random_horizontal_flip": 0.5}]}
    results = []
    for setting in ("off", str(tmp_path / "c"), str(tmp_path / "c")):
        result = worker(data__cache=setting, **settings).succeeded()
        results.append((result.losses, result.accuracies))
    assert results[0] == results[1] == results[2]
    assert len(results[0][0]) == 6


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_set_on_the_device_gives_the_same_batches(load, tmp_path, monkeypatch, depth) -> None:
    """A GPU takes the whole set in pieces; the CPU can be asked to do the same."""
    rng = np.random.default_rng(0)
    root = write_pairs(tmp_path / "deep", [np.eye(32, dtype=np.uint8) * 255] * 5)
    for path in root.glob("*/inputs/*.png"):
        write_png(path, rng.integers(0, np.iinfo(depth).max, (32, 32)), depth)
    load(root)
    loaded, _ = load(root)
    monkeypatch.setattr(rowsource, "CHUNK_BYTES", 9000)
    settings = {"batch_size": 2, "device": torch.device("cpu"), "continuous": False}
    mapped = batches.Batches(loaded.train, **settings)
    resident = batches.Batches(loaded.train, **settings)
    resident.move_to_device()
    epochs = [map(one.make, one.epoch(seed=1, epoch=2)) for one in (mapped, resident)]
    pairs = list(zip(*epochs, strict=True))
    assert len(pairs) == 3
    for one, other in pairs:
        torch.testing.assert_close(one.inputs_NCHW, other.inputs_NCHW, rtol=0, atol=0)
        torch.testing.assert_close(one.targets, other.targets, rtol=0, atol=0)


def test_errors_are_the_same_with_and_without(load, images) -> None:
    broken = images / "train/targets/img 03.png"
    for damage in (b"", b"no image", cv2.imencode(".png", np.full((32, 32), 77, np.uint8))[1]):
        broken.write_bytes(bytes(damage))
        messages = []
        for setting in ({}, {"cache": "off"}):
            with pytest.raises(DataError) as caught:
                load(**setting)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
        assert "img 03.png" in messages[0] or "77 (1,024 pixels)" in messages[0]


def test_failed_build_leaves_nothing(load, images, cache) -> None:
    (images / "test/inputs/img 01.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"img 01\.png"):
        load()
    assert entries(cache) == []


# --- when it holds ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["inputs", "targets"])
@pytest.mark.parametrize("how", ["in place", "renamed over", "with its old times"])
def test_changed_file_is_decoded_again(load, images, kind, how) -> None:
    load()
    path = images / f"train/{kind}/img 02.png"
    before = path.stat()
    changed = 255 - cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if how == "renamed over":
        write_png(path.with_name("other.png"), changed)
        path.with_name("other.png").replace(path)
    else:
        write_png(path, changed)
    if how == "with its old times":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again, log = load()
    assert BUILT in log
    assert_same(again, load(cache="off")[0])


def test_edit_right_after_a_build_is_seen(load, images) -> None:
    """A clock that ticks every few milliseconds must not hide a second edit."""
    path = images / "train/inputs/img 02.png"
    for value in range(1, 9):
        path.write_bytes(cv2.imencode(".png", np.full((32, 32), value, np.uint8))[1].tobytes())
        loaded, _ = load()
        assert loaded.train.inputs_NHWC[2, 0, 0, 0] == value


@pytest.mark.parametrize(
    "change",
    [
        {"transforms": [{"resize": [16, 16]}]},
        {"grayscale": False},
        {"target_is_mask": False},
        {"mask_threshold": 100},
        {"mask_values": [255, 0]},
        {"test_target_path": None},
    ],
)
def test_changed_setting_is_decoded_again(load, change) -> None:
    load()
    loaded, log = load(**change)
    assert BUILT in log
    assert_same(loaded, load(**change, cache="off")[0])


def test_setting_that_decodes_alike_is_found(load) -> None:
    load()
    flips = [{"random_vertical_flip": 0.5}, {"resize": [32, 32]}]
    assert FOUND in load(batch_size=2, transforms=flips)[1]


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "missing", "meta", "no meta"])
def test_damaged_entry_is_built_again(load, cache, damage) -> None:
    first, _ = load()
    expected = first.train.inputs_NHWC.copy()
    [entry] = entries(cache)
    target = entry / ("meta.json" if "meta" in damage else "train_inputs.npy")
    content = target.read_bytes()
    if damage in ("missing", "no meta"):
        target.unlink()
    elif damage == "truncated":
        target.write_bytes(content[:-1])
    else:
        changed = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        replacement = target.with_name("damaged")
        replacement.write_bytes(changed)
        replacement.replace(target)
    again, log = load()
    assert BUILT in log
    np.testing.assert_array_equal(again.train.inputs_NHWC, expected)
    assert FOUND in load()[1]


def test_large_entry_is_checked_in_places(load, cache, monkeypatch) -> None:
    monkeypatch.setattr(stores, "CHECK_BYTES", 2000)
    first, _ = load()
    assert FOUND in load()[1]
    [entry] = entries(cache)
    assert '"stride": 4' in (entry / "meta.json").read_text()
    del first
    content = bytearray((entry / "train_inputs.npy").read_bytes())
    content[200] ^= 1
    (entry / "train_inputs.npy").write_bytes(content)
    assert BUILT in load()[1]
