"""Slices of arrays: cut, and put together again."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from arrays import conv, keras_file, section
from hypothesis import given, settings
from hypothesis import strategies as st
from worker import Worker

from trainer.config import Slicer
from trainer.data.arrays import Source
from trainer.data.slicing import cut_up
from trainer.evaluation.assembly import Assembler


def source_of(array: np.ndarray) -> Source:
    return Source(Path("a.npy"), "", array.shape, array.dtype)


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], dict]:
    rank = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(rank))
    sizes = [draw(st.integers(1, 6)) for _ in range(rank)]
    sizes[draw(st.integers(0, rank - 1))] = draw(st.integers(2, 6))
    settings: dict = {"sizes": sizes}
    if draw(st.booleans()):
        settings["strides"] = [draw(st.integers(1, size)) for size in sizes]
    padding = draw(st.sampled_from(["padding", "padded_sizes", None]))
    extra = [0 if size == 1 else draw(st.integers(0, 3)) for size in sizes]
    if padding == "padding":
        settings["padding"] = extra
    elif padding == "padded_sizes":
        settings["padded_sizes"] = [a + b for a, b in zip(sizes, extra, strict=True)]
    if sum(size > 1 for size in sizes) == 2:
        settings["transpose"] = draw(st.booleans())
    return shape, settings


@settings(max_examples=150, deadline=None)
@given(grid=grids())
def test_slices_put_together_give_the_array_back(
    grid: tuple[tuple[int, ...], dict], tmp_path_factory: pytest.TempPathFactory
) -> None:
    shape, config = grid
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    slices = cut_up([source_of(array)], [Slicer.model_validate(config)])
    path = tmp_path_factory.mktemp("h5") / "out.h5"
    with Assembler(path, slices, is_half=False) as assembler:
        for entry in slices:
            cut = entry.cut(lambda _, region: array[region], 0)
            assert cut.shape == entry.shape == entry.slicer.sample_shape
            # What is padded is zeros, so that nothing is seen twice.
            assert np.count_nonzero(cut) == np.count_nonzero(array[entry.region])
            output = np.stack([cut, -cut])
            assembler.write([entry.name], [entry.restore(output)])
    with h5py.File(path) as file:
        (name,) = file
        np.testing.assert_allclose(file[name], np.stack([array, -array], -1), rtol=1e-6)


@pytest.mark.parametrize(("shape", "number"), [((704, 590, 1006), 4455), ((78, 590, 1006), 405)])
def test_numbers_of_slices_are_those_of_the_seismic_tutorial(
    shape: tuple[int, ...], number: int
) -> None:
    slicer = Slicer.model_validate(
        {"sizes": [64, 64, 256], "strides": [64, 64, 17], "discard_remainders": True}
    )
    source = Source(Path("a.npy"), "", shape, np.dtype(np.float32))
    assert len(cut_up([source], [slicer])) == number


def test_remainders_are_covered_once_and_strides_may_leave_gaps() -> None:
    array = np.arange(10)
    sizes = Slicer.model_validate({"sizes": [4]})
    assert [entry.name for entry in cut_up([source_of(array)], [sizes])] == [
        "0:4", "4:8", "8:10"
    ]  # fmt: skip
    gaps = Slicer.model_validate({"sizes": [2], "strides": [4]})
    assert [entry.name for entry in cut_up([source_of(array)], [gaps])] == [
        "0:2", "4:6", "8:10"
    ]  # fmt: skip


IDENTITY = {
    "filters": 1,
    "kernel_size": [1, 1],
    "activation": "linear",
    "use_bias": False,
    "kernel_initializer": "ones",
}


@pytest.mark.parametrize("precision", ["single", "half"])
def test_identity_network_gives_the_volume_back(
    worker: Worker, tmp_path: Path, precision: str
) -> None:
    """Two sets of 2-D slices of one volume, one transposed and overlapping, both padded."""
    volume = np.random.default_rng(0).normal(size=(5, 7, 9)).astype(np.float32)
    np.save(tmp_path / "volume.npy", volume)
    layers = keras_file(tmp_path / "net.json", ("Conv2D", IDENTITY), shape=(None, None, 1))
    worker(
        layers=str(layers),
        loss=None,
        optimizer=None,
        data={
            "type": "numpy",
            "test_input_path": str(tmp_path / "volume.npy"),
            "test_output_path": "out",
            "test_batch_size": 3,
            "hdf5_outfile": "whole.h5",
            "hdf5_precision": precision,
            "slicers": [
                {"name": "yz", "sizes": [1, 4, 5], "padded_sizes": [1, 8, 7]},
                {
                    "name": "xz",
                    "sizes": [6, 1, 4],
                    "strides": [6, 1, 2],
                    "padded_sizes": [7, 1, 8],
                    "transpose": True,
                },
            ],
        },
    ).succeeded()
    with h5py.File(tmp_path / "whole.h5") as file:
        assert sorted(file) == ["xz", "yz"]
        for name in file:
            assert file[name].dtype == (np.float16 if precision == "half" else np.float32)
            # A linear network without MSE is read as logits; softmax and sigmoid are monotonic.
            expected = 1 / (1 + np.exp(-volume))[..., np.newaxis]
            tolerance = 1e-3 if precision == "half" else 1e-6
            np.testing.assert_allclose(file[name], expected, atol=tolerance)
    with h5py.File(tmp_path / "out/output_1.h5") as file:
        np.testing.assert_allclose(
            file["yz/2:3,4:7,5:9"], expected[np.newaxis, 2, 4:7, 5:9, 0], atol=1e-6
        )


def test_training_on_slices_of_one_volume(worker: Worker, tmp_path: Path) -> None:
    """The recorded Dice is that of the volume, without what was padded: NumPy counts it again."""
    rng = np.random.default_rng(0)
    for part, length in (("train", 16), ("test", 11)):
        mask = np.repeat(np.repeat(rng.integers(0, 3, (length, 4, 5)), 2, 1), 2, 2)
        np.save(tmp_path / f"{part}_inputs.npy", mask + rng.normal(0, 0.1, mask.shape))
        np.save(tmp_path / f"{part}_targets.npy", mask.astype(np.int64))
    layers = keras_file(
        tmp_path / "net.json",
        conv(3, 8),
        conv(3, 3, "log_softmax"),
        shape=(None, None, None, 1),
    )
    result = worker(
        layers=str(layers),
        num_epochs=3,
        loss={"function": "NLL"},
        optimizer__learning_rate=0.02,
        data=section(
            tmp_path, "numpy", ".npy",
            preload=True,
            hdf5_outfile="results/whole.h5",
            slicers=[{"name": "samples", "sizes": [4, 4, 8], "padding": [1, 1, 1]}],
        ),
    ).succeeded()  # fmt: skip
    target = np.load(tmp_path / "test_targets.npy")
    with h5py.File(tmp_path / "results/whole.h5") as file:
        predicted = file["samples"][()].argmax(-1)
    dice = [
        2
        * ((predicted == c) & (target == c)).sum()
        / ((predicted == c).sum() + (target == c).sum())
        for c in (0, 1, 2)
    ]
    assert result.accuracies[-1] == pytest.approx(np.mean(dice), abs=1e-8)
    assert result.accuracies[-1] > 0.2


def test_disk_that_refuses_the_assembly_is_reported(worker: Worker, tmp_path: Path) -> None:
    np.save(tmp_path / "volume.npy", np.ones((4, 4)))
    layers = keras_file(tmp_path / "net.json", ("Conv2D", IDENTITY), shape=(None, None, 1))
    message = worker(
        layers=str(layers),
        loss=None,
        optimizer=None,
        data={
            "type": "numpy",
            "test_input_path": str(tmp_path / "volume.npy"),
            "hdf5_outfile": "net.json/whole.h5",
            "slicers": [{"sizes": [2, 2]}],
        },
    ).error(1)
    assert "net.json: cannot be made a folder" in message


def test_what_slices_do_not_cover_is_not_in_the_file(worker: Worker, tmp_path: Path) -> None:
    """As the seismic tutorial reads it: `['pred'][()]` against the covered part of the target."""
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(7, 9, 11)).astype(np.float32)
    np.save(tmp_path / "input3D_test.npy", volume)
    np.save(tmp_path / "target3D_test.npy", (volume > 0).astype(np.uint8))
    layers = keras_file(
        tmp_path / "net.json",
        ("Conv3D", IDENTITY | {"kernel_size": [1, 1, 1], "activation": "sigmoid"}),
        shape=(None, None, None, 1),
    )
    result = worker(
        layers=str(layers),
        loss={"function": "BCE"},
        optimizer=None,
        data={
            "type": "numpy",
            "test_input_path": "./input3D_test.npy",
            "test_target_path": "./target3D_test.npy",
            "test_batch_size": 1,
            "hdf5_outfile": "prediction.h5",
            "slicers": [{"name": "pred", "sizes": [4, 8, 5], "discard_remainders": True}],
        },
    ).succeeded()
    with h5py.File(tmp_path / "prediction.h5") as file:
        predicted = file["pred"][()]
    target = np.load(tmp_path / "target3D_test.npy")[:4, :8, :10]
    assert predicted.shape == (*target.shape, 1)
    assert ((predicted[..., 0] > 0.5) == target).all()
    assert result.accuracies == [1.0]


@pytest.mark.parametrize("kind", ["numpy", "hdf5"])
def test_slicers_of_different_shapes_cut_an_array_with_channels(
    worker: Worker, tmp_path: Path, kind: str
) -> None:
    """The documentation's two slicers (yz, and xz transposed), on a smaller array of channels.

    The network adds up channels; NumPy does, too, on the array itself.
    """
    rng = np.random.default_rng(0)
    arrays = {part: rng.normal(size=(2, 6, 4, 9)).astype(np.float32) for part in ("train", "test")}
    suffix = ".npy" if kind == "numpy" else ".h5"
    for part, array in arrays.items():
        target = (array.sum(0) > 0).astype(np.uint8)
        for role, values in (("inputs", array), ("targets", target)):
            path = tmp_path / f"{part}_{role}{suffix}"
            if kind == "numpy":
                np.save(path, values)
                continue
            with h5py.File(path, "w") as file:
                file["volume"] = values
    adds = {**IDENTITY, "activation": "sigmoid"}
    layers = keras_file(tmp_path / "net.json", ("Conv2D", adds), shape=(None, None, 2))
    result = worker(
        layers=str(layers),
        loss={"function": "BCE"},
        optimizer={"type": "SGD", "learning_rate": 1e-12},
        num_epochs=1,
        data=section(
            tmp_path,
            kind,
            suffix,
            test_batch_size=5,
            hdf5_outfile="prediction.h5",
            slicers=[
                {"name": "yz-slices", "sizes": [1, 4, 9], "padded_sizes": [1, 8, 10]},
                {
                    "name": "xz-slices",
                    "sizes": [6, 1, 9],
                    "padded_sizes": [7, 1, 10],
                    "discard_remainders": False,
                    "transpose": True,
                },
            ],
        ),
    ).succeeded()
    expected = 1 / (1 + np.exp(-arrays["test"].sum(0)))
    with h5py.File(tmp_path / "prediction.h5") as file:
        assert sorted(file) == ["xz-slices", "yz-slices"]
        for name in file:
            assert file[name].shape == (6, 4, 9, 1)
            np.testing.assert_allclose(file[name][..., 0], expected, atol=1e-6)
    # 6 + 4 slices in batches of 2, none of which mixes the two shapes
    target = arrays["train"].sum(0) > 0
    probability = 1 / (1 + np.exp(-arrays["train"].sum(0).astype(np.float64)))
    loss = -np.log(np.where(target, probability, 1 - probability))
    assert len(result.losses) == 5
    assert sum(result.losses) * 2 == pytest.approx(
        loss.mean((1, 2)).sum() + loss.mean((0, 2)).sum(), rel=1e-5
    )
    assert result.accuracies == [1.0]
    # 6 + 4 slices, in batches of 2, and of 5 for the test: two and one
    numbers = [line for line in result.out.splitlines() if "Num batches (per process)" in line]
    assert [line.split(": ")[1] for line in numbers] == ["5", "3"]
    assert "Batch [    3/    3]" in result.out


def test_a_network_of_one_size_is_refused_for_slices_of_two(
    worker: Worker, tmp_path: Path
) -> None:
    np.save(tmp_path / "volume.npy", np.ones((6, 6, 8), np.float32))
    layers = keras_file(
        tmp_path / "net.json",
        ("MaxPooling2D", {"pool_size": [2, 2]}),
        ("UpSampling2D", {"size": [2, 2]}),
        ("Flatten", {}),
        ("Dense", {"units": 48}),
        ("Reshape", {"target_shape": [6, 8, 1]}),
        shape=(6, 8, 1),
    )
    message = worker(
        layers=str(layers),
        loss=None,
        optimizer=None,
        data={
            "type": "numpy",
            "test_input_path": str(tmp_path / "volume.npy"),
            "hdf5_outfile": "whole.h5",
            "slicers": [{"sizes": [1, 6, 8]}, {"sizes": [6, 6, 1]}],
        },
    ).error()
    assert "its weights fit only inputs of 6×8" in message
