"""Images larger than the network's input: crops to train on, tiles to evaluate."""

from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from support import data_section, write_discs
from worker import Worker, write_json, write_pairs

from trainer.cli import main
from trainer.compute.launch import Launch
from trainer.compute.parallel import World
from trainer.config import parse_config
from trainer.data.dataset import Resolve, load_data
from trainer.evaluation.tiles import blend_tiles, num_tiles, window
from trainer.loading.batches import Batches

TILES = {"size": [32, 32], "overlap": 0.5}
LARGE = (80, 56)  # in neither direction a whole number of steps


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs on images of 96x96, for a network of 32x32."""
    return write_discs(tmp_path_factory.mktemp("large"), num_train=6, num_test=3, size=96)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of noise whose masks are noise as well, to tell every place by its pixels."""
    rng = np.random.default_rng(1)
    masks = [rng.integers(0, 2, LARGE, dtype=np.uint8) * 255 for _ in range(3)]
    return write_pairs(tmp_path_factory.mktemp("numbered"), masks)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize(
    ("size", "tile"),
    [((80, 56), (32, 32)), ((64, 64), (32, 32)), ((32, 41), (32, 16)), ((20, 17, 9), (8, 8, 8))],
)
def test_blending_is_that_of_monai(
    size: tuple[int, ...], tile: tuple[int, ...], overlap: float
) -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 2, *size)
    network = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[len(size)](2, 3, 5, padding="same")
    with torch.inference_mode():
        expected = sliding_window_inference(
            image, tile, 1, network, overlap=overlap, mode="gaussian"
        )
        for batch_size in (1, 4):
            blended = blend_tiles(network, image, tile, overlap=overlap, batch_size=batch_size)
            torch.testing.assert_close(blended, expected, rtol=1e-5, atol=1e-5)


def test_a_network_that_needs_no_surroundings_gives_the_whole_images_output() -> None:
    image = torch.randn(1, 1, 50, 70)
    blended = blend_tiles(torch.sin, image, (32, 32), overlap=0.25, batch_size=3)
    torch.testing.assert_close(blended, torch.sin(image))


def test_a_tile_of_the_images_size_is_the_image() -> None:
    assert num_tiles((32, 48), (32, 48), 0.5) == 1
    assert num_tiles((33, 48), (32, 48), 0.5) == 2
    assert window((5, 7), torch.device("cpu")).max() == 1


def crops_of(
    folder: Path,
    *,
    epoch: int = 1,
    num_processes: int = 1,
    batch_size: int = 5,
    on_device: bool = False,
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Return what an epoch gives all processes: number of an image, crops of it and its mask."""
    section = data_section(folder, transforms=[], tiles={"size": [16, 24], "per_image": 4})
    network = {"layers": "unet", "data": section, "loss": {"function": "BCE"}}
    config = parse_config({"neural_network": network})
    loaded = load_data(config.data, Resolve(folder))
    assert loaded.train is not None
    found = []
    for rank in range(num_processes):
        batches = Batches(
            loaded.train,
            batch_size=batch_size,
            device=torch.device("cpu"),
            continuous=False,
            world=World(Launch(rank=rank, size=num_processes, local_size=num_processes)),
        )
        if on_device:
            batches.move_to_device()
        for batch in map(batches.make, batches.epoch(seed=3, epoch=epoch)):
            assert batch.targets is not None
            crops = batch.inputs_NCHW.mul(255).round().byte().numpy()[:, 0]
            found += zip(batch.indices.tolist(), crops, batch.targets.numpy(), strict=True)
    return found


def find(crop: np.ndarray, image: np.ndarray) -> tuple[int, int]:
    """Return the one place of a crop in an image."""
    windows = np.lib.stride_tricks.sliding_window_view(image, crop.shape)
    (place,) = np.argwhere((windows == crop).all((2, 3)))
    return tuple(place.tolist())


def test_crops_come_from_everywhere_and_go_with_their_masks(numbered: Path) -> None:
    places = []
    for epoch in (1, 2):
        crops = crops_of(numbered, epoch=epoch)
        assert sorted(index for index, _, _ in crops) == sorted([0, 1, 2] * 4)
        for index, crop, target in crops:
            image = cv2.imread(str(numbered / f"train/inputs/{index:02d}.png"), 0)
            mask = cv2.imread(str(numbered / f"train/targets/{index:02d}.png"), 0)
            row, column = find(crop, image)
            assert np.array_equal(target * 255, mask[row : row + 16, column : column + 24])
            places.append((row, column))
    assert len(set(places)) == len(places), "each is drawn anew"
    rows, columns = zip(*places, strict=True)
    assert max(rows) > 40, "of 0 to 64"
    assert max(columns) > 20, "of 0 to 32"


def test_two_processes_see_the_crops_of_one(numbered: Path) -> None:
    def key(sample: tuple) -> tuple:
        return sample[0], sample[1].tobytes(), sample[2].tobytes()

    alone = crops_of(numbered)
    together = crops_of(numbered, num_processes=2, batch_size=4)
    assert sorted(map(key, alone)) == sorted(map(key, together))


def test_crops_of_a_set_on_the_device_are_the_same(numbered: Path) -> None:
    for one, other in zip(crops_of(numbered), crops_of(numbered, on_device=True), strict=True):
        assert all(map(np.array_equal, one, other))


def test_training_and_evaluation_see_whole_images(worker: Worker, large: Path) -> None:
    result = worker(
        data=large,
        num_epochs=12,
        layers="unet:width=4,depth=2",
        data__transforms=[{"random_horizontal_flip": 0.5}],
        data__tiles=TILES | {"per_image": 4},
        data__test_output_path="predicted",
    ).succeeded()
    num_images = len(list((large / "train/inputs").iterdir()))
    assert f"Num images  (total)      : {4 * num_images}\n" in result.out
    assert f"Crops of so many images  : {num_images}\n" in result.out
    assert result.accuracies[-1] > 0.9
    with h5py.File(result.folder / "predicted/output_1.h5") as file:
        assert {file[name].shape for name in file} == {(1, 96, 96)}
        p = np.stack([file[name][0] > 0.5 for name in sorted(file)])
        masks = [cv2.imread(str(large / "test/targets" / name), 0) for name in sorted(file)]
    t = np.stack(masks) > 127
    assert result.accuracies[-1] == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()), 1e-7)


@pytest.mark.parametrize("test_batch_size", [1, 64])
def test_predictions_at_full_size(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, test_batch_size: int
) -> None:
    monkeypatch.chdir(tmp_path)
    network = [
        {
            "class_name": "Conv2D",
            "config": {"name": "c", "filters": 1, "kernel_size": [3, 3], "padding": "same"}
            | {"activation": "sigmoid", "batch_input_shape": [None, 32, 32, 1]},
        }
    ]
    (tmp_path / "model").mkdir()
    layers = {"class_name": "Sequential", "config": {"name": "n", "layers": network}}
    write_json(tmp_path / "model/layers.json", layers)
    section = data_section(large, transforms=[], tiles=TILES, test_batch_size=test_batch_size)
    config = {
        "neural_network": {"layers": "./layers.json", "data": section, "loss": {"function": "BCE"}}
    }
    write_json(tmp_path / "model/config.json", config)
    out = tmp_path / "out"
    arguments = ["--predict", "model", "--images", str(large / "test/inputs"), "--out", str(out)]
    assert main(arguments) == 0
    with h5py.File(out / "output_1.h5") as file:
        for name in file:
            assert file[name].shape == (1, 96, 96)
            mask = cv2.imread(str(out / "masks" / name), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(mask > 0, file[name][0] > 0.5)
            assert cv2.imread(str(out / "overlays" / name)).shape == (96, 96, 3)


def test_tiles_larger_than_the_images_are_refused(worker: Worker, large: Path) -> None:
    result = worker(data=large, data__transforms=[], data__tiles={"size": [32, 128]})
    error = result.error()
    assert "data.tiles.size: [32, 128] is too large" in error
    assert "96x96" in error


# --- what is no way of tiling ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {
                "data__target_is_mask": None,
                "data__transforms": [{"random_patches": {"number": 1, "size": 200}}],
            },
            "data.transforms: random_patches.size: [200, 200] is too large",
        ),
        (
            {"data__tiles": TILES, "data__transforms": [{"random_patches": TILES}]},
            "data.transforms[0].random_patches.overlap: unknown key",
        ),
        (
            {
                "data__tiles": TILES,
                "data__transforms": [{"random_patches": {"number": 1, "size": 32}}],
            },
            "expected random_patches once, and no tiles beside it",
        ),
        (
            {"data__input_transforms": [{"random_patches": {"number": 1, "size": 32}}]},
            "data.input_transforms[0]: random_patches must move inputs and masks together",
        ),
        (
            {
                "data__target_is_mask": True,
                "data__transforms": [{"random_patches": {"number": 1, "size": 32}}],
            },
            "leave target_is_mask and the like out, or, to train on crops of images and masks, "
            "use tiles",
        ),
        (
            {"data__transforms": [{"random_patches": {"number": 0, "size": [3]}}]},
            "data.transforms[0].random_patches.size: expected two positive integers [H, W]",
        ),
    ],
)
def test_random_patches_that_make_no_sense_are_refused(
    worker: Worker, large: Path, changes: dict, words: str
) -> None:
    assert words in worker(data=large, **changes).error()
