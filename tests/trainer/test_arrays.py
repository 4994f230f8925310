"""numpy and HDF5 data, end to end: train, evaluate, predict."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from arrays import conv, keras_file, section, write_npy_folders
from worker import Result, Worker, write_png

from trainer.cli import main
from trainer.data.augmentation import Augmentation
from trainer.data.transforms import Steps
from trainer.loading.augment import DrawnAugmentation, augment


@pytest.fixture
def flat_net(tmp_path: Path) -> Path:
    """A network on (H, W, 2) with one output channel that a test of reading can train at once."""
    return keras_file(tmp_path / "flat.json", conv(2, 1, "sigmoid"), shape=(None, None, 2))


def test_volumes_train_evaluate_and_predict(worker: Worker, tmp_path: Path) -> None:
    root = write_npy_folders(tmp_path / "data", (8, 10, 12))
    layers = keras_file(
        tmp_path / "net.json",
        ("ZeroPadding3D", {"padding": [1, 1, 1]}),
        conv(3, 4, padding="valid"),
        ("MaxPooling3D", {"pool_size": [2, 2, 2]}),
        ("Conv3DTranspose", {"filters": 4, "kernel_size": [2] * 3, "strides": [2] * 3}),
        ("BatchNormalization", {}),
        conv(3, 1, "sigmoid"),
        shape=(None, None, None, 1),
    )
    result = worker(
        layers=str(layers),
        num_epochs=30,
        data=section(root, "numpy", test_output_path="predictions"),
        optimizer__learning_rate=0.05,
    ).succeeded()
    assert result.accuracies[-1] > 0.6 > 2 * result.accuracies[0]
    assert "8x10x12x1" in result.out
    with h5py.File(tmp_path / "predictions/output_1.h5") as file:
        found = {name: values[()] for name, values in file.items()}
    assert sorted(found) == [f"{i}.npy" for i in range(4)]
    # The recorded Dice comes out of the predictions again, by NumPy alone.
    both = total = 0
    for name, values in found.items():
        assert values.shape == (1, 8, 10, 12)
        ball = np.load(root / "test_targets" / name) > 0
        both += 2 * (ball & (values[0] > 0.5)).sum()
        total += ball.sum() + (values[0] > 0.5).sum()
    assert result.accuracies[-1] == pytest.approx(both / total, abs=1e-8)


@pytest.mark.parametrize("function", ["NLL", "BCE", "MSE", "Dice", "Jaccard", "Focal", "Lovasz"])
def test_every_loss_takes_volumes_and_enlarges_a_coarser_output(
    worker: Worker, tmp_path: Path, function: str
) -> None:
    root = write_npy_folders(tmp_path / "data", (4, 6, 8), num=2)
    layers = keras_file(
        tmp_path / "net.json",
        conv(3, 3, strides=[2, 2, 2]),
        conv(3, 2, "softmax"),
        shape=(4, 6, 8, 1),
    )
    result = worker(
        layers=str(layers),
        data=section(root, "numpy", test_output_path="out"),
        loss={"function": function},
    ).succeeded()
    assert np.isfinite(result.losses).all()
    with h5py.File(tmp_path / "out/output_1.h5") as file:
        assert file["0.npy"].shape == (2, 4, 6, 8)


def test_flips_of_volumes_are_those_of_the_last_two_axes(tmp_path: Path) -> None:
    values = torch.arange(2 * 3 * 4 * 5.0).view(2, 1, 3, 4, 5)
    steps = Steps((), ((1, 0.5), (0, 0.5)), ())
    drawn = Augmentation(np.array([[True, False], [False, True]]), None, None)
    moved, targets = augment(
        values, values[:, 0].long(), DrawnAugmentation.on(torch.device("cpu"), drawn), steps
    )
    np.testing.assert_array_equal(moved[0], values[0].flip(-1))
    np.testing.assert_array_equal(moved[1], values[1].flip(-2))
    np.testing.assert_array_equal(targets, moved[:, 0].long())


@pytest.mark.parametrize("layout", ["last", "first", "npz", "hdf5"])
def test_same_numbers_from_every_kind_of_file(
    worker: Worker, tmp_path: Path, flat_net: Path, layout: str
) -> None:
    """Values beyond 8 bits, float64 and Fortran order reach the network unchanged."""
    rng = np.random.default_rng(3)
    values = {f"s{i}": rng.normal(0, 1e3, (6, 8, 2)) for i in range(3)}
    masks = {name: (v[..., 0] > 0).astype(np.int16) * 255 for name, v in values.items()}

    def run(kind: str, suffix: str = "") -> Result:
        data = section(tmp_path / "data", kind, suffix, batch_size=3)
        return worker(layers=str(flat_net), data=data, seed=1).succeeded()

    def save(layout: str) -> None:
        for part in ("train", "test"):
            for kind, arrays in (("inputs", values), ("targets", masks)):
                folder = tmp_path / "data" / f"{part}_{kind}"
                folder.mkdir(parents=True, exist_ok=True)
                if layout == "npz":
                    np.savez_compressed(f"{folder}.npz", **arrays)
                elif layout == "hdf5":
                    with h5py.File(f"{folder}.h5", "w") as file:
                        for name, array in arrays.items():
                            file.create_dataset(f"deep/{name}", data=array, chunks=True)
                else:
                    for name, array in arrays.items():
                        moved = np.moveaxis(array, -1, 0) if array.ndim == 3 else array
                        array = moved if layout == "first" else np.asfortranarray(array)
                        np.save(folder / f"{name}.npy", array)

    save("last")
    expected = run("numpy")
    save(layout)
    result = run(*{"npz": ("numpy", ".npz"), "hdf5": ("hdf5", ".h5")}.get(layout, ("numpy",)))
    assert result.losses == expected.losses
    assert result.accuracies == expected.accuracies


def test_float_targets_are_learned_as_they_are(worker: Worker, tmp_path: Path) -> None:
    """Regression: the loss is NumPy's mean square of what the network leaves."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        np.save(tmp_path / f"{part}_inputs.npy", rng.normal(size=(5, 6, 1)))
        np.save(tmp_path / f"{part}_targets.npy", rng.normal(size=(5, 6)))
    layers = keras_file(tmp_path / "net.json", conv(2, 1, "linear"), shape=(5, 6, 1))
    result = worker(
        layers=str(layers),
        data=section(tmp_path, "numpy", ".npy", test_output_path="out"),
        loss={"function": "MSE"},
    ).succeeded()
    with h5py.File(tmp_path / "out/output_1.h5") as file:
        predicted = file["test_inputs.npy"][0]
    expected = ((predicted - np.load(tmp_path / "test_targets.npy")) ** 2).mean()
    assert result.scores[-1][2] == pytest.approx(expected, rel=1e-4)


def test_intensity_range_scales_arrays_where_it_is_given(worker: Worker, tmp_path: Path) -> None:
    values = np.linspace(-1500, 1500, 24).reshape(4, 6)
    np.save(tmp_path / "scan.npy", values)
    same = {"filters": 1, "kernel_size": [1, 1], "use_bias": False, "kernel_initializer": "ones"}
    layers = keras_file(tmp_path / "net.json", ("Conv2D", same), shape=(4, 6, 1))
    for limits in ("full", [-1000, 400]):
        data = {
            "type": "numpy",
            "test_input_path": str(tmp_path / "scan.npy"),
            "test_output_path": "out",
            "intensity_range": limits,
        }
        worker(layers=str(layers), loss={"function": "MSE"}, data=data).succeeded()
        with h5py.File(tmp_path / "out/output_1.h5") as file:
            found = file["scan.npy"][0]
        expected = values if limits == "full" else ((values + 1000) / 1400).clip(0, 1)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def write_classes(root: Path, *, kind: str) -> Path:
    """Write bright and dark samples in folders of their class."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for level, name in ((60, "dark"), (180, "light")):
            (root / part / name).mkdir(parents=True)
            for index in range(6 if part == "train" else 5):
                pixels = rng.normal(level, 20, (8, 8)).clip(0, 255)
                if kind == "images":
                    write_png(root / part / name / f"{index}.png", pixels)
                else:
                    np.save(root / part / name / f"{index}.npy", pixels / 255)
    return root


@pytest.mark.parametrize("kind", ["images", "numpy"])
def test_classification_by_folder(worker: Worker, tmp_path: Path, kind: str) -> None:
    root = write_classes(tmp_path / "data", kind=kind)
    layers = keras_file(
        tmp_path / "net.json",
        conv(2, 4),
        ("GlobalAveragePooling2D", {}),
        ("Dense", {"units": 2, "activation": "log_softmax"}),
        shape=(8, 8, 1),
    )
    data = {
        "input_type": kind,
        "target_type": "labels",
        "input_path": str(root / "train"),
        "test_input_path": str(root / "test"),
        "test_output_path": "out",
        "grayscale": True,
        "batch_size": 4,
        "transforms": [{"random_horizontal_flip": 0.5}],
    }
    for wanted in (1, 40):  # after one epoch some are wrong still
        result = worker(
            layers=str(layers),
            data=data,
            num_epochs=wanted,
            loss={"function": "NLL"},
            optimizer__learning_rate=0.05,
        ).succeeded()
        suffix = "png" if kind == "images" else "npy"
        with h5py.File(tmp_path / "out/output_1.h5") as file:
            found = {
                (name, index): file[f"{name}/{index}.{suffix}"][()]
                for name in ("dark", "light")
                for index in range(5)
            }
        right = [p.argmax() == ("dark", "light").index(name) for (name, _), p in found.items()]
        assert result.accuracies[-1] == pytest.approx(np.mean(right), abs=1e-9)
    assert result.accuracies[-1] == 1.0
    assert "0 dark, 1 light" in result.out
    assert "share of samples whose class is found" in result.out
    assert main(["--predict", ".", "--images", str(root), "--out", "drawn"]) == 2


def test_network_may_have_more_outputs_than_there_are_folders(
    worker: Worker, tmp_path: Path
) -> None:
    root = write_classes(tmp_path / "data", kind="images")
    layers = keras_file(
        tmp_path / "net.json",
        ("GlobalAveragePooling2D", {}),
        ("Dense", {"units": 4, "activation": "softmax"}),
        shape=(8, 8, 1),
    )
    data = {
        "target_type": "labels",
        "input_path": str(root / "train"),
        "test_input_path": str(root / "test"),
        "test_output_path": "out",
        "grayscale": True,
        "batch_size": 4,
    }
    result = worker(
        layers=str(layers),
        data=data,
        num_epochs=60,
        loss={"function": "NLL", "weight": "inverse_frequency^0.35"},
        optimizer__learning_rate=0.05,
    ).succeeded()
    with h5py.File(tmp_path / "out/output_1.h5") as file:
        found = {name: [file[name][x][()] for x in file[name]] for name in ("dark", "light")}
    right = [p.argmax() == i for i, ps in enumerate(found.values()) for p in ps]
    assert found["dark"][0].shape == (4,)
    assert result.accuracies[-1] == pytest.approx(np.mean(right), abs=1e-9)
    assert result.accuracies[-1] > 0.9


def test_folder_without_classes_is_predicted_only(worker: Worker, tmp_path: Path) -> None:
    root = write_classes(tmp_path / "data", kind="images")
    layers = keras_file(
        tmp_path / "net.json",
        ("Flatten", {}),
        ("Dense", {"units": 1, "activation": "sigmoid"}),
        shape=(8, 8, 1),
    )
    data = {
        "target_type": "labels",
        "test_input_path": str(root / "test/dark"),
        "test_output_path": "out",
        "grayscale": True,
    }
    result = worker(layers=str(layers), loss=None, data=data).succeeded()
    assert not result.files["out_test.txt"]
    with h5py.File(tmp_path / "out/output_1.h5") as file:
        assert sorted(file) == [f"{index}.png" for index in range(5)]
        assert file["0.png"].shape == (1,)


def test_order_of_classes_can_be_set(worker: Worker, tmp_path: Path) -> None:
    root = write_classes(tmp_path / "data", kind="images")
    layers = keras_file(
        tmp_path / "net.json",
        ("GlobalAveragePooling2D", {}),
        ("Dense", {"units": 2, "activation": "softmax"}),
        shape=(8, 8, 1),
    )
    data = {
        "target_type": "labels",
        "input_path": str(root / "train"),
        "test_input_path": str(root / "test"),
        "class_names": ["light", "dark"],
        "grayscale": True,
        "batch_size": 4,
    }
    result = worker(layers=str(layers), loss={"function": "NLL"}, data=data).succeeded()
    assert "0 light, 1 dark" in result.out
    assert set(result.metrics[-1]["per_class"]) == {"light", "dark"}
    assert result.metrics[-1]["accuracy"] == pytest.approx(result.accuracies[-1])
    refusal = worker(layers=str(layers), loss={"function": "Dice"}, data=data).error()
    assert "for target_type labels use NLL" in refusal
