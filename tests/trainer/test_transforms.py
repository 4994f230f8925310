"""Transforms do what OpenCV does, move images and masks together, and repeat by seed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from worker import write_pairs, write_png

from trainer.config import parse_config
from trainer.data.dataset import LoadedData, Resolve, load_data
from trainer.errors import ConfigError, DataError
from trainer.loading.batches import Batch, Batches

CPU = torch.device("cpu")
FLIPS = [{"random_horizontal_flip": 0.5}, {"random_vertical_flip": 0.3}]


def load(root: Path, **changes: object) -> LoadedData:
    """Read the training part of a folder; target_is_mask, no transforms unless changed."""
    section = {
        "input_path": str(root / "train/inputs"),
        "target_path": str(root / "train/targets"),
        "target_is_mask": True,
        **changes,
    }
    section = {key: value for key, value in section.items() if value is not None}
    config = parse_config(
        {"neural_network": {"layers": "n", "data": section, "loss": {"function": "BCE"}}}
    )
    return load_data(config.data, Resolve(root))


def batches(data: LoadedData, batch_size: int = 4) -> Batches:
    assert data.train is not None
    continuous = data.coding is not None and data.coding.kind == "continuous"
    return Batches(data.train, batch_size=batch_size, device=CPU, continuous=continuous)


def whole(data: LoadedData) -> Batch:
    return next(batches(data, batch_size=1000).in_order())


def epoch_of(data: LoadedData, *, seed: int, epoch: int, batch_size: int = 4) -> torch.Tensor:
    """Return an epoch's inputs and masks, (N, 2, H, W), in the order of the set."""
    found = {}
    source = batches(data, batch_size)
    for batch in map(source.make, source.epoch(seed=seed, epoch=epoch)):
        assert batch.targets is not None
        for index, image, mask in zip(
            batch.indices, batch.inputs_NCHW, batch.targets, strict=True
        ):
            found[int(index)] = torch.cat([image[:1], mask[None].float()])
    return torch.stack([found[index] for index in range(len(found))])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten noise images whose mask is the image's own bright half, so that both must move alike."""
    root = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(1)
    for index in range(10):
        image = rng.integers(0, 256, (20, 14), np.uint8)
        write_png(root / f"train/inputs/{index}.png", image)
        write_png(root / f"train/targets/{index}.png", (image > 127) * 255)
    return root


@pytest.mark.parametrize("size", [(32, 24), (7, 9), (20, 14), (40, 14)])
@pytest.mark.parametrize(
    ("rule", "flag"),
    [
        (None, cv2.INTER_NEAREST_EXACT),
        ("exact", cv2.INTER_NEAREST_EXACT),
        ("opencv", cv2.INTER_NEAREST),
    ],
)
def test_resize_is_opencv_s_linear_for_images_and_nearest_for_masks(
    pairs, size, rule, flag
) -> None:
    transforms = [{"resize": list(size)}]
    data = load(pairs, grayscale=True, transforms=transforms, mask_resize=rule)
    assert data.train is not None
    for index, name in enumerate(data.train.names):
        image = cv2.imread(str(pairs / "train/inputs" / name), cv2.IMREAD_GRAYSCALE)
        mask = cv2.imread(str(pairs / "train/targets" / name), cv2.IMREAD_GRAYSCALE)
        shape = (size[1], size[0])
        expected = cv2.resize(image, shape, interpolation=cv2.INTER_LINEAR)
        assert (data.train.inputs_NHWC[index, :, :, 0] == expected).all()
        expected = cv2.resize(mask, shape, interpolation=flag)
        assert (data.train.targets_NHW[index] == expected // 255).all()


def test_resizes_follow_one_another(pairs: Path) -> None:
    steps = [{"resize": [8, 8]}, {"resize": [16, 12]}]
    data = load(pairs, grayscale=True, transforms=steps)
    image = cv2.imread(str(pairs / "train/inputs/0.png"), cv2.IMREAD_GRAYSCALE)
    expected = cv2.resize(cv2.resize(image, (8, 8)), (12, 16))
    assert (data.train.inputs_NHWC[0, :, :, 0] == expected).all()


def test_values_are_divided_by_the_full_scale_then_normalized_in_order(pairs: Path) -> None:
    steps = [{"normalize": {"mean": 0.25, "std": 0.5}}, {"normalize": {"std": 0.1}}]
    inputs = whole(load(pairs, grayscale=True, input_transforms=steps)).inputs_NCHW
    image = cv2.imread(str(pairs / "train/inputs/0.png"), cv2.IMREAD_GRAYSCALE)
    expected = ((image.astype(np.float32) / 255 - 0.25) / 0.5) / 0.1
    np.testing.assert_allclose(inputs[0, 0], expected, rtol=1e-5, atol=1e-6)


def test_normalize_takes_a_number_per_channel_in_bgr_order(tmp_path: Path) -> None:
    write_pairs(tmp_path, [np.eye(4, dtype=np.uint8)])
    pixels = np.zeros((4, 4, 3), np.uint8) + np.array([255, 0, 51], np.uint8)
    write_png(tmp_path / "train/inputs/00.png", pixels)
    steps = [{"normalize": {"mean": [1.0, 0.5, 0.0], "std": [1.0, 0.5, 0.2]}}]
    inputs = whole(load(tmp_path, transforms=steps)).inputs_NCHW
    np.testing.assert_allclose(inputs[0, :, 0, 0], [0.0, -1.0, 1.0], atol=1e-6)


def test_masks_are_not_normalized(pairs: Path) -> None:
    targets = whole(load(pairs, transforms=[{"normalize": {"mean": 0.5, "std": 3}}])).targets
    assert targets.dtype == torch.int64
    assert set(targets.unique().tolist()) == {0, 1}


def test_continuous_targets_are_divided_and_normalized(tmp_path: Path) -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_pairs(tmp_path, [mask])
    steps = [{"normalize": {"std": 1 / 255}}]  # the pets tutorial's way back to 0 to 255
    data = load(tmp_path, target_is_mask=None, target_transforms=steps)
    np.testing.assert_allclose(whole(data).targets[0, 0], mask, atol=1e-3)


def test_sixteen_bits_are_divided_by_65535(tmp_path: Path) -> None:
    write_pairs(tmp_path, [np.eye(2, dtype=np.uint8)])
    write_png(tmp_path / "train/inputs/00.png", [[0, 65_535], [257, 40_000]], np.uint16)
    inputs = whole(load(tmp_path, grayscale=True)).inputs_NCHW
    np.testing.assert_allclose(inputs[0, 0], np.array([[0, 1], [1 / 255, 40_000 / 65_535]]), 1e-6)


def test_channels_follow_the_gray_options(pairs: Path) -> None:
    for changes, channels in (
        ({}, 3),
        ({"grayscale": True}, 1),
        ({"input_grayscale": True}, 1),
        ({"grayscale": True, "input_grayscale": False}, 3),
        ({"target_grayscale": True}, 3),
    ):
        assert whole(load(pairs, **changes)).inputs_NCHW.shape[1] == channels


def test_inputs_are_channels_last_in_memory(pairs: Path) -> None:
    inputs = whole(load(pairs)).inputs_NCHW
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_flips_move_images_and_masks_together(pairs: Path) -> None:
    epoch = epoch_of(load(pairs, grayscale=True, transforms=FLIPS), seed=3, epoch=1)
    assert ((epoch[:, 0] > 0.5).float() == epoch[:, 1]).all()


def test_each_sample_is_one_of_its_four_flips_and_all_occur(pairs: Path) -> None:
    data = load(pairs, grayscale=True, transforms=FLIPS)
    plain = whole(data).inputs_NCHW[:, 0]
    seen = set()
    for number in range(1, 9):
        for index, image in enumerate(epoch_of(data, seed=0, epoch=number)[:, 0]):
            ways = {
                axes: plain[index].flip(axes) for axes in [(), (0,), (1,), (0, 1)]
            }  # axis 0 is the height
            matching = [axes for axes, flipped in ways.items() if torch.equal(flipped, image)]
            assert len(matching) == 1
            seen.add(matching[0])
    assert seen == {(), (0,), (1,), (0, 1)}


def test_probability_of_one_flips_always_and_along_the_right_axis(pairs: Path) -> None:
    for key, axis in (("random_horizontal_flip", 1), ("random_vertical_flip", 0)):
        data = load(pairs, grayscale=True, transforms=[{key: 1.0}])
        flipped = epoch_of(data, seed=0, epoch=1)[:, 0]
        assert torch.equal(flipped, whole(data).inputs_NCHW[:, 0].flip(axis + 1))


def test_flips_depend_on_seed_epoch_and_sample_alone(pairs: Path) -> None:
    data = load(pairs, grayscale=True, transforms=FLIPS)
    first = epoch_of(data, seed=1, epoch=1)
    for batch_size in (1, 3, 10):
        assert torch.equal(epoch_of(data, seed=1, epoch=1, batch_size=batch_size), first)
    assert not torch.equal(epoch_of(data, seed=1, epoch=2), first)
    assert not torch.equal(epoch_of(data, seed=2, epoch=1), first)


def test_order_of_an_epoch_is_a_new_permutation_by_seed_and_epoch(pairs: Path) -> None:
    data = load(pairs)

    def order(seed: int, epoch: int) -> list[int]:
        shuffled = batches(data).epoch(seed=seed, epoch=epoch)
        return np.concatenate([batch.indices for batch in shuffled]).tolist()

    assert order(1, 1) == order(1, 1)
    assert sorted(order(1, 1)) == list(range(10))
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (1, 2)}) == 4


def test_evaluation_takes_every_sample_once_in_order_and_unchanged(pairs: Path) -> None:
    data = load(pairs, grayscale=True, transforms=FLIPS)
    found = list(batches(data, batch_size=3).in_order())
    assert [len(batch.indices) for batch in found] == [3, 3, 3, 1]
    assert torch.equal(torch.cat([b.inputs_NCHW for b in found]), whole(data).inputs_NCHW)


def test_flip_of_images_alone_is_refused(pairs: Path) -> None:
    for key in ("input_transforms", "target_transforms"):
        with pytest.raises(
            ConfigError, match=rf"data\.{key}\[0\]: random_vertical_flip must move"
        ):
            load(pairs, **{key: [{"random_vertical_flip": 0.5}]})


def test_images_of_several_sizes_need_a_resize(tmp_path: Path) -> None:
    write_pairs(tmp_path, [np.eye(8, dtype=np.uint8), np.eye(9, dtype=np.uint8)])
    with pytest.raises(DataError, match=r'images differ in size: .*add \{"resize": \[H, W\]\}'):
        load(tmp_path)
    assert len(load(tmp_path, transforms=[{"resize": [8, 8]}]).train) == 2


def test_images_of_several_depths_are_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, [np.eye(8, dtype=np.uint8)] * 2)
    write_png(tmp_path / "train/inputs/01.png", np.zeros((8, 8)), np.uint16)
    with pytest.raises(DataError, match="some images have 8 bits a channel and some 16"):
        load(tmp_path)


def test_mask_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    write_pairs(tmp_path, [np.eye(8, dtype=np.uint8)] * 2)
    write_png(tmp_path / "train/targets/01.png", np.zeros((4, 6)))
    with pytest.raises(DataError, match=r"01\.png: the mask is 4x6, its image 01\.png 8x8"):
        load(tmp_path, transforms=[{"resize": [8, 8]}])


@pytest.mark.parametrize("value", ["", "0", "4,2", "many", "-1"])
def test_any_number_of_threads_reads_the_same(pairs: Path, monkeypatch, value: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert load(pairs).train.names == tuple(f"{n}.png" for n in range(10))
