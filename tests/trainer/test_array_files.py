"""Arrays that are broken, hostile or of the wrong shape: one clear line, exit code 2."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from arrays import conv, keras_file, section
from support import BIN, clean_environment
from worker import Worker, write_json

Spoil = Callable[[Path], None]
GOOD = np.zeros((4, 6), np.float32)


def save(folder: Path, name: str, array: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / name, array)
    return folder / name


def write_good(root: Path, kind: str) -> None:
    """Two samples in each of the four places: .npy files, or data sets `a` and `b`."""
    for part in ("train", "test"):
        for role, array in (("inputs", GOOD), ("targets", (np.arange(24) % 2).reshape(4, 6))):
            if kind == "hdf5":
                with h5py.File(root / f"{part}_{role}.h5", "w") as file:
                    file["a"], file["b"] = array, array
            else:
                for name in ("a.npy", "b.npy"):
                    save(root / f"{part}_{role}", name, array)


def write_h5(change: Callable[[h5py.File], None]) -> Spoil:
    def spoil(root: Path) -> None:
        with h5py.File(root / "train_inputs.h5", "a") as file:
            del file["a"]
            change(file)

    return spoil


def truncate(name: str, num_bytes: int) -> Spoil:
    def spoil(root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[:num_bytes])

    return spoil


def replace(name: str, array: np.ndarray) -> Spoil:
    return lambda root: np.save(root / name, array)


def link_to_other_file(file: h5py.File) -> None:
    file["a"] = h5py.ExternalLink("/etc/hostname.h5", "/secret")


def keep_values_outside(file: h5py.File) -> None:
    file.create_dataset("a", (4, 6), "f4", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])


def map_other_file(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4, 6), "f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "a", (4, 6))
    file.create_virtual_dataset("a", layout)


A = "train_inputs/a.npy"
NAN = np.where(np.arange(24).reshape(4, 6) == 7, np.nan, GOOD)
CASES: dict[str, tuple[str, Spoil, tuple[str, ...]]] = {
    "nan": ("numpy", replace(A, NAN), (A, "NaN")),
    "beyond float32": ("numpy", replace(A, GOOD.astype(np.float64) + 1e300), (A, "float32")),
    "infinite target": ("numpy", replace("train_targets/a.npy", GOOD + np.inf), ("holds inf",)),
    "half a class": ("numpy", replace("test_targets/b.npy", GOOD + 0.5), ("b.npy: holds 0.5",)),
    "negative class": ("numpy", replace("test_targets/b.npy", GOOD - 1), ("b.npy: holds -1",)),
    "objects": ("numpy", replace(A, np.array([[{}, 1]], object)), (A, "Python objects")),
    "texts": ("numpy", replace(A, np.array([["a"]])), (A, "expected numbers")),
    "complex": ("numpy", replace(A, GOOD.astype(complex)), (A, "complex", "expected numbers")),
    "empty": ("numpy", replace(A, np.zeros((4, 0))), (A, "is empty")),
    "truncated": ("numpy", truncate(A, 150), (A, "cannot be read")),
    "head only": ("numpy", truncate(A, 20), (A, "cannot be read")),
    "nothing": ("numpy", truncate(A, 0), (A, "cannot be read")),
    "no array": ("numpy", lambda root: (root / A).write_text("hello"), (A, "cannot be read")),
    "shape": ("numpy", replace(A, np.zeros((4, 6, 3))), (A, "(4, 6, 3)", "(any, any, 1)")),
    "another shape": (
        "numpy", replace("train_inputs/b.npy", np.zeros((5, 6))),
        ("b.npy", "(5, 6, 1)", "(4, 6, 1)"),
    ),
    "target's shape": (
        "numpy", replace("train_targets/b.npy", np.zeros((4, 5), np.uint8)),
        ("train_targets/b.npy", "(4, 5)", "expected (4, 6)"),
    ),
    "no target": ("numpy", lambda root: save(root / "train_inputs", "c.npy", GOOD), ("c.npy",)),
    "h5 nan": ("hdf5", write_h5(lambda file: file.update(a=NAN)), ("train_inputs.h5[a]", "NaN")),
    "h5 truncated": ("hdf5", truncate("train_inputs.h5", 900), ("train_inputs.h5", "truncated")),
    "h5 other file": ("hdf5", truncate("train_inputs.h5", 3), ("train_inputs.h5", "read")),
    "h5 text": ("hdf5", write_h5(lambda file: file.update(a="text")), ("[a]", "numbers")),
    "h5 outside": ("hdf5", write_h5(keep_values_outside), ("'/a' keeps its values in other",)),
    "h5 link": ("hdf5", write_h5(link_to_other_file), ("data.input_path", "to /etc/hostname.h5")),
    "h5 virtual": ("hdf5", write_h5(map_other_file), ("'/a' keeps its values in other",)),
    "h5 huge": (
        "hdf5", write_h5(lambda file: file.create_dataset("a", (2**20, 2**20), "f4", chunks=True)),
        ("[a]", "too many values"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "spoil", "words"), CASES.values(), ids=CASES)
def test_file_that_cannot_be_used_is_named(
    worker: Worker, tmp_path: Path, kind: str, spoil: Spoil, words: tuple[str, ...]
) -> None:
    write_good(tmp_path, kind)
    spoil(tmp_path)
    layers = keras_file(tmp_path / "net.json", conv(2, 1, "sigmoid"), shape=(None, None, 1))
    suffix = ".h5" if kind == "hdf5" else ""
    data = section(tmp_path, kind, suffix, target_is_mask=True)
    message = worker(layers=str(layers), data=data).error()
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message


@pytest.mark.parametrize("kind", ["numpy", "hdf5"])
@pytest.mark.parametrize("layers", ["gray", "colour", "unet:width=2,depth=1"])
def test_several_samples_in_one_array_are_told_how_to_be_several(
    worker: Worker, tmp_path: Path, kind: str, layers: str
) -> None:
    rng = np.random.default_rng(0)
    suffix = ".h5" if kind == "hdf5" else ".npy"
    channels = (3,) if layers == "colour" else ()
    for part in ("train", "test"):
        for role, array in (
            ("inputs", rng.normal(size=(5, 8, 12, *channels))),
            ("targets", rng.integers(0, 2, (5, 8, 12))),
        ):
            path = tmp_path / f"{part}_{role}{suffix}"
            if kind == "numpy":
                np.save(path, array)
            else:
                with h5py.File(path, "w") as file:
                    file["all"] = array
    network = layers
    if not layers.startswith("unet"):
        shape = (None, None, 3 if channels else 1)
        network = str(keras_file(tmp_path / "net.json", conv(2, 1, "sigmoid"), shape=shape))
    data = section(tmp_path, kind, suffix, target_is_mask=True)
    message = worker(layers=network, data=data).error()
    assert "one array is one sample, and (5, 8, 12" in message
    assert "looks like 5 of them: write each as an array of its own" in message
    if kind == "hdf5":
        return
    command = message.split("alike: ")[1].splitlines()[0]
    for part in ("train", "test"):  # what it says to do
        for role in ("inputs", "targets"):
            array = np.load(tmp_path / f"{part}_{role}.npy")
            name = str(tmp_path / f"{part}_{role}.npz")
            exec(command.replace("file.npz", name), {"numpy": np, "array": array})
    data = section(tmp_path, kind, ".npz", target_is_mask=True)
    result = worker(layers=network, data=data).succeeded()
    assert "Num samples (total) : 5" in " ".join(result.out.split())


def test_colours_at_an_end_are_no_samples(worker: Worker, tmp_path: Path) -> None:
    write_good(tmp_path, "numpy")
    for shape in ((4, 6, 3), (3, 4, 6)):
        save(tmp_path / "train_inputs", "a.npy", np.zeros(shape))
        layers = keras_file(tmp_path / "net.json", conv(2, 1, "sigmoid"), shape=(None, None, 1))
        message = worker(layers=str(layers), data=section(tmp_path, "numpy")).error()
        assert "one sample" not in message


# What registers a filter: it turns each byte over, so that values tell whether it was used.
PLUGIN = """
import ctypes, h5py

CALL = ctypes.CFUNCTYPE(
    ctypes.c_size_t, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_void_p),
)

@CALL
def turn_over(flags, num_values, values, num_bytes, size, buffer):
    data = (ctypes.c_ubyte * num_bytes).from_address(buffer[0])
    data[:] = [255 - byte for byte in data]
    return num_bytes

class Filter(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_int), ("id", ctypes.c_int), ("encodes", ctypes.c_uint),
        ("decodes", ctypes.c_uint), ("name", ctypes.c_char_p), ("can_apply", ctypes.c_void_p),
        ("set_local", ctypes.c_void_p), ("filter", CALL),
    ]

KEPT = Filter(1, 32015, 1, 1, b"zstd", None, None, turn_over)
h5py.h5z.register_filter(ctypes.addressof(KEPT))
"""


def filtered(code: int) -> Callable[[h5py.File], None]:
    """Write a data set as if by a filter that is not here: its bytes are turned over."""

    def change(file: h5py.File) -> None:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk(GOOD.shape)
        properties.set_filter(code, h5py.h5z.FLAG_OPTIONAL, ())
        space, kind = h5py.h5s.create_simple(GOOD.shape), h5py.h5t.NATIVE_FLOAT
        values = h5py.h5d.create(file.id, b"a", kind, space, properties)
        packed = bytes(255 - byte for byte in FILTERED.tobytes())
        values.write_direct_chunk((0, 0), packed, filter_mask=0)

    return change


FILTERED = np.arange(24, dtype=np.float32).reshape(4, 6)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (32015, ("zstd, number 32015", "pip install hdf5plugin")),
        (32099, ("number 32099; install it, or compress",)),
    ],
)
def test_filter_that_is_not_installed_is_named_with_its_remedy(
    worker: Worker, tmp_path: Path, code: int, words: tuple[str, ...]
) -> None:
    write_good(tmp_path, "hdf5")
    write_h5(filtered(code))(tmp_path)
    layers = keras_file(tmp_path / "net.json", conv(2, 1, "sigmoid"), shape=(None, None, 1))
    message = worker(layers=str(layers), data=section(tmp_path, "hdf5", ".h5")).error()
    assert len(message.splitlines()) == 1
    for word in (*words, "train_inputs.h5[a]: is compressed by a filter", "h5repack"):
        assert word in message


def test_filter_of_an_installed_plugin_is_used(tmp_path: Path) -> None:
    write_good(tmp_path, "hdf5")
    write_h5(filtered(32015))(tmp_path)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/hdf5plugin.py").write_text(PLUGIN)
    code = (
        "from pathlib import Path; from trainer.data.arrays import *; "
        "found, _ = list_sources(Path('train_inputs.h5'), 'hdf5', 'data.input_path'); "
        "print(ArrayFiles().read(found[0]).tolist())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=clean_environment() | {"PYTHONPATH": str(tmp_path / "modules")},
    )  # fmt: skip
    assert result.stdout.strip() == str(FILTERED.tolist()), result.stderr


def test_link_in_the_place_of_a_sample_is_refused_and_the_remedy_mends_it(
    worker: Worker, tmp_path: Path
) -> None:
    write_good(tmp_path, "hdf5")
    layers = keras_file(tmp_path / "net.json", conv(2, 1, "sigmoid"), shape=(None, None, 1))
    data = section(tmp_path, "hdf5", ".h5")
    expected = worker(layers=str(layers), data=data).succeeded()
    path = tmp_path / "train_inputs.h5"
    with h5py.File(path, "a") as file, h5py.File(tmp_path / "other file.h5", "w") as other:
        file.copy("a", other, "kept")
        del file["a"]
        file["a"] = h5py.ExternalLink("other file.h5", "/kept")
    message = worker(layers=str(layers), data=data).error()
    assert len(message.splitlines()) == 1
    assert f"data.input_path: {path}: links are not followed" in message
    assert "/a (to other file.h5)" in message
    named = section(tmp_path, "hdf5", ".h5", input_path=f"{path}/a")
    assert "/a (to other file.h5)" in worker(layers=str(layers), data=named).error()
    _, _, program, *_ = shlex.split(message[message.index("python -c") :])
    subprocess.run([sys.executable, "-c", program.rstrip(",")], cwd=tmp_path, check=True)
    (tmp_path / "whole.h5").rename(path)
    assert worker(layers=str(layers), data=data).succeeded().losses == expected.losses


@pytest.mark.parametrize("role", ["input", "target"])
def test_file_of_links_alone_says_where_they_lead(
    worker: Worker, tmp_path: Path, role: str
) -> None:
    write_good(tmp_path, "hdf5")
    with h5py.File(tmp_path / f"train_{role}s.h5", "a") as file:
        del file["a"], file["b"]
        file["c"] = h5py.ExternalLink("other.h5", "/secret")
    layers = keras_file(tmp_path / "net.json", conv(2, 1, "sigmoid"), shape=(None, None, 1))
    message = worker(layers=str(layers), data=section(tmp_path, "hdf5", ".h5")).error()
    assert len(message.splitlines()) == 1
    assert f"data.{role}_path: " in message
    assert "/c (to other.h5)" in message


@pytest.mark.parametrize("kind", ["numpy", "hdf5"])
def test_suffix_in_capitals_is_read_alike(worker: Worker, tmp_path: Path, kind: str) -> None:
    write_good(tmp_path, kind)
    layers = keras_file(tmp_path / "net.json", conv(2, 1, "sigmoid"), shape=(None, None, 1))
    suffix = ".h5" if kind == "hdf5" else ""
    expected = worker(layers=str(layers), data=section(tmp_path, kind, suffix)).succeeded()
    for path in [*tmp_path.glob("*.h5"), *tmp_path.glob("*/*.npy")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    data = section(tmp_path, kind, suffix.upper())
    assert worker(layers=str(layers), data=data).succeeded().losses == expected.losses


def test_links_that_change_nothing_are_said_so(worker: Worker, tmp_path: Path) -> None:
    write_good(tmp_path, "hdf5")
    with h5py.File(tmp_path / "train_inputs.h5", "a") as file:
        file["loop"] = file["/"]
        file["again"] = h5py.SoftLink("a")
    layers = keras_file(tmp_path / "net.json", conv(2, 1, "sigmoid"), shape=(None, None, 1))
    result = worker(layers=str(layers), data=section(tmp_path, "hdf5", ".h5")).succeeded()
    assert "links to arrays that are read anyway, not followed: /again (to /a)" in result.out
    assert "Num samples (total) : 2" in " ".join(result.out.split())


def test_links_out_of_the_group_that_is_meant_are_refused(worker: Worker, tmp_path: Path) -> None:
    write_good(tmp_path, "hdf5")
    path = tmp_path / "train_inputs.h5"
    with h5py.File(path, "a") as file:
        file.create_group("pool")
        for name in ("a", "b"):
            file.move(name, f"pool/{name}")
        file["some/a"] = h5py.SoftLink("/pool/a")
        file["some/b"] = np.zeros((4, 6), np.float32)
        file["elsewhere"] = h5py.ExternalLink("other.h5", "/secret")
    layers = keras_file(tmp_path / "net.json", conv(2, 1, "sigmoid"), shape=(None, None, 1))
    data = section(tmp_path, "hdf5", ".h5", input_path=f"{path}/some")
    assert (
        "would be missing without: /some/a (to /pool/a)"
        in worker(layers=str(layers), data=data).error()
    )
    data = section(tmp_path, "hdf5", ".h5", input_path=f"{path}/pool")
    assert "elsewhere" not in worker(layers=str(layers), data=data).succeeded().out


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"transforms": [{"intensity_jitter": {}}]}, ("data.transforms[0]: intensity_jitter",)),
        ({"transforms": [{"convert_color": "BGR2RGB"}]}, ("convert_color is for images",)),
        ({"slicers": [{"sizes": [2, 2, 2]}]}, ("(4, 6)", "data.slicers[0].sizes 3 numbers")),
        (
            {"slicers": [{"sizes": [8, 2], "discard_remainders": True}]},
            ("(4, 6) is below data.slicers[0].sizes [8, 2]",),
        ),
        ({"slicers": [{"sizes": [1, 6]}]}, ("slices have (6,)", "(any, any, 1)")),
        ({"channels_first": True, "input_path": "missing"}, ("data.input_path: no such file",)),
    ],
)
def test_setting_that_means_nothing_here_is_refused(
    worker: Worker, tmp_path: Path, data: dict, words: tuple[str, ...]
) -> None:
    write_good(tmp_path, "numpy")
    layers = keras_file(tmp_path / "net.json", conv(2, 1, "sigmoid"), shape=(None, None, 1))
    message = worker(layers=str(layers), data=section(tmp_path, "numpy", **data)).error()
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", ["resize", "random_rotate", "jitter_crop", "rotate"])
def test_transform_of_images_is_refused_for_volumes(
    worker: Worker, tmp_path: Path, name: str
) -> None:
    for part in ("train", "test"):
        for role in ("inputs", "targets"):
            np.save(tmp_path / f"{part}_{role}.npy", np.zeros((4, 4, 4)))
    layers = keras_file(tmp_path / "net.json", conv(3, 1, "sigmoid"), shape=(4, 4, 4, 1))
    value = [2, 2] if name == "resize" else 0.5
    data = section(tmp_path, "numpy", ".npy", transforms=[{name: value}])
    message = worker(layers=str(layers), data=data).error()
    assert (
        f"data.transforms[0]: {name} is for samples of two dimensions, and these have 3" in message
    )


def test_channels_at_both_ends_must_be_told_apart(worker: Worker, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 4, 3))
    for part in ("train", "test"):
        np.save(tmp_path / f"{part}_inputs.npy", values)
    layers = keras_file(tmp_path / "net.json", conv(2, 1, "sigmoid"), shape=(None, None, 3))
    sizes = {None: None, False: (3, 4), True: (4, 3)}
    for choice, size in sizes.items():
        for part in ("train", "test"):
            target = (np.arange(12) % 2).reshape(size or (3, 4))
            np.save(tmp_path / f"{part}_targets.npy", target)
        data = section(tmp_path, "numpy", ".npy", channels_first=choice)
        result = worker(layers=str(layers), data=data)
        if size is None:
            assert "data.channels_first" in result.error()
        else:
            assert f"{size[0]}x{size[1]}x3" in result.succeeded().out


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "test/c").mkdir(), ("data.test_input_path: folder 'c'", "a, b")),
        (lambda root: save(root / "train/c", "0.npy", GOOD), ("shape (2,)", "3 classes")),
        (lambda root: (root / "train/b/0.npy").unlink(), ("no file", "train/b")),
        (lambda root: (root / "train/c").symlink_to("/etc"), ("train/c is a link that leaves",)),
    ],
)
def test_folders_that_are_no_classes_are_named(
    worker: Worker, tmp_path: Path, spoil: Spoil, words: tuple[str, ...]
) -> None:
    for part in ("train", "test"):
        for name in ("a", "b"):
            save(tmp_path / part / name, "0.npy", GOOD)
    spoil(tmp_path)
    layers = keras_file(
        tmp_path / "net.json",
        ("GlobalAveragePooling2D", {}),
        ("Dense", {"units": 2, "activation": "softmax"}),
        shape=(4, 6, 1),
    )
    message = worker(
        layers=str(layers),
        loss={"function": "NLL"},
        data={
            "input_type": "numpy",
            "target_type": "labels",
            "input_path": str(tmp_path / "train"),
            "test_input_path": str(tmp_path / "test"),
        },
    ).error()
    for word in words:
        assert word in message


MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("peak MiB", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
sys.exit(code)
"""


@pytest.mark.parametrize("kind", ["numpy", "hdf5"])
def test_array_larger_than_the_memory_allowed_is_read_slice_by_slice(
    tmp_path: Path, kind: str
) -> None:
    """8 GiB of holes, of which a few slices are read: the worker stays far below."""
    shape = (2048, 1024, 1024)
    if kind == "numpy":
        path = tmp_path / "volume.npy"
        np.lib.format.open_memmap(path, "w+", np.float32, shape)[1024, 512, 512] = 7
    else:
        path = tmp_path / "volume.h5"
        with h5py.File(path, "w") as file:
            values = file.create_dataset("volume", shape, np.float32, chunks=(16, 64, 64))
            values[1024, 512, 512] = 7
    layers = keras_file(tmp_path / "net.json", conv(3, 1, "linear"), shape=(None, None, None, 1))
    config = {
        "layers": str(layers),
        "data": {
            "type": kind,
            "test_input_path": str(path),
            "test_output_path": "out",
            "test_batch_size": 1,
            "slicers": [
                {"sizes": [32, 64, 64], "strides": [1024, 512, 512], "discard_remainders": True}
            ],
        },
        "loss": {"function": "MSE"},
    }
    write_json(tmp_path / "config.json", {"neural_network": config})
    command = [sys.executable, "-c", MEASURE, str(BIN / "rmldnn"), "--config=config.json"]
    result = subprocess.run(
        command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split("peak MiB")[1]) < 2048
    with h5py.File(tmp_path / "out/output_1.h5") as file:
        assert len(file) == 8
        touched = {name for name in file if np.ptp(file[name][()]) > 0}
    assert "1024:1056,512:576,512:576" in touched
