"""Weights that mean harm: no other file is opened, and nothing is read without need."""

import os
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from trainer.errors import NetworkError, WeightsError
from trainer.networks import load_network, network_json, parse_network
from trainer.networks.module import build_module
from trainer.networks.stored import write_legacy_h5
from trainer.networks.weights import load_weights

SHAPE = (8, 8, 1)
SPEC = "unet:width=2,depth=1"


def network():
    graph = parse_network(network_json(SPEC, SHAPE, 1), SPEC)
    return graph, build_module(graph, SHAPE)


def load(path, lines=None):
    graph, module = network()
    log = (lambda line: None) if lines is None else lines.append
    return load_weights(module, graph, path, log, allow_partial=True)


def first_kernel():
    """Return name and shape, in Keras's layout, of a kernel of the network."""
    graph, module = network()
    for layer in graph.layers():
        for weight in module.layer_weights.get(layer.name, ()):
            if len(weight.shape) == 4:
                return layer.name, weight.shape
    raise AssertionError


def legacy(path, value=None):
    layer, shape = first_kernel()
    value = np.ones(shape, np.float32) if value is None else value
    write_legacy_h5(path, {layer: [(f"{layer}/kernel:0", value)]})
    return f"{layer}/{layer}/kernel:0"


def replace(path, place, make):
    """Put something else in a data set's place."""
    with h5py.File(path, "r+") as file:
        group, _, name = place.rpartition("/")
        del file[place]
        make(file[group], name)


def test_values_kept_in_another_file_are_not_read(tmp_path):
    secret = tmp_path / "secret"
    _, shape = first_kernel()
    secret.write_bytes(np.ones(shape, np.float32).tobytes())
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = np.ones(shape, np.float32)
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource(str(other), "x", shape)
    ways = {
        "external": lambda group, name: group.create_dataset(
            name, shape, "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
        ),
        "linked": lambda group, name: group.__setitem__(name, h5py.ExternalLink(str(other), "x")),
        "soft": lambda group, name: group.__setitem__(name, h5py.SoftLink("/x")),
        "virtual": lambda group, name: group.create_virtual_dataset(name, layout),
    }
    for way, make in ways.items():
        path = tmp_path / f"{way}.h5"
        replace(path, legacy(path), make)
        with pytest.raises(WeightsError, match="not followed"):
            load(path)
    assert load_is_fine(tmp_path)


def load_is_fine(tmp_path):
    path = tmp_path / "fine.h5"
    legacy(path)
    return load(path).num_loaded == 1


def test_link_to_a_group_of_another_file_is_not_followed(tmp_path):
    other = tmp_path / "other.weights.h5"
    with h5py.File(other, "w") as file:
        file["conv2d/vars/0"] = np.ones(3)
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers"] = h5py.ExternalLink(str(other), "/")
    with pytest.raises(WeightsError, match="is a link, which is not followed"):
        load(path)


PEAK = """
import resource, sys
sys.path.insert(0, {tests!r})
from test_hostile_weights import load
import h5py, numpy
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load(__import__("pathlib").Path({path!r}))
except Exception as error:
    print(type(error).__name__, str(error)[:300])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def peak_of(path):
    """Load weights in a process of its own; return what it said and its growth in bytes."""
    script = PEAK.format(tests=str(Path(__file__).parent), path=str(path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30,) * 2),
    )  # fmt: skip
    *said, grown = done.stdout.splitlines()
    return " ".join(said), int(grown) * 1024


def test_what_the_network_does_not_take_is_not_read(tmp_path):
    layer, _shape = first_kernel()
    path = tmp_path / "m.h5"
    legacy(path)
    with h5py.File(path, "r+") as file:
        group = file[layer]
        names = [f"{layer}/kernel:0", "x/vast:0", *(f"x/again_{n}:0" for n in range(50))]
        group.attrs["weight_names"] = [name.encode() for name in names]
        vast = group.create_dataset("x/vast:0", (2**29,), "f4", chunks=(2**20,), compression=1)
        for name in names[2:]:
            group[name] = vast
    said, grown = peak_of(path)
    assert said == "" and grown < 64 * 2**20


def test_chunk_that_unpacks_to_more_than_it_holds_is_refused(tmp_path):
    import zlib

    _layer, shape = first_kernel()
    bomb = zlib.compress(bytes(2**29), 9)  # half a megabyte

    def make(group, name):
        item = group.create_dataset(name, shape, "f4", chunks=shape, compression="gzip")
        item.id.write_direct_chunk((0,) * len(shape), bomb)

    path = tmp_path / "m.h5"
    replace(path, legacy(path), make)
    said, grown = peak_of(path)
    assert "unpacks to more than it holds" in said and grown < 64 * 2**20


def test_keras_archive_that_unpacks_to_more_than_the_network_is_refused(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        with archive.open("model.weights.h5", "w") as member:
            for _ in range(80):
                member.write(bytes(2**20))
    with pytest.raises(WeightsError, match=r"unpacks to \d+ bytes; save the model anew"):
        load(path)


def test_groups_nested_for_ever_are_refused(tmp_path):
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(150):
            group = group.create_group("layers")
    with pytest.raises(WeightsError, match="nested more than 100 deep"):
        load(path)


def test_circle_of_hard_links_ends(tmp_path):
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/conv2d/vars")
        group["0"] = np.ones(3, np.float32)
        for number in range(20):
            group[f"up{number}"] = file["layers"]
    with pytest.raises(WeightsError, match="none of its 1 parameters"):
        load(path)


@pytest.mark.parametrize(
    "value, problem",
    [
        (torch.ones(3, dtype=torch.complex64), "complex numbers"),
        (torch.eye(3).to_sparse(), "layout"),
        (torch.empty(10**9, device="meta"), "without numbers"),
    ],
)
def test_tensors_that_are_no_real_numbers_are_refused(value, problem, tmp_path):
    torch.save({"w": value}, tmp_path / "m.pt")
    with pytest.raises(WeightsError, match=problem):
        load(tmp_path / "m.pt")


def test_packed_pt_is_refused_before_it_is_unpacked(tmp_path):
    torch.save({"w": torch.zeros(2**20)}, tmp_path / "plain.pt")
    packing = zipfile.ZIP_DEFLATED
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as source,
        zipfile.ZipFile(tmp_path / "m.pt", "w", packing) as packed,
    ):
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    with pytest.raises(WeightsError, match="is packed; write it anew"):
        load(tmp_path / "m.pt")


def model(name, inner, num_calls):
    """Return a model that returns its input, and calls another on it."""
    layers = [{"class_name": "InputLayer", "name": "i", "inbound_nodes": [],
               "config": {"batch_input_shape": [None, 8, 8, 1]}}]  # fmt: skip
    ends = [["i", 0, 0]]
    if inner is not None:
        layers.append({**inner, "inbound_nodes": [[["i", 0, 0, {}]]] * num_calls})
        ends = [[inner["name"], num_calls - 1, 0]]
    config = {"name": name, "layers": layers, "input_layers": [["i", 0, 0]], "output_layers": ends}
    return {"class_name": "Functional", "name": name, "config": config}


def test_nested_models_that_return_their_input_are_bounded():
    """Eight models with twelve calls each: 400 million calls, and not one node."""
    inner = None
    for depth in range(8):
        inner = model(f"m{depth}", inner, 12)
    with pytest.raises(NetworkError, match="more than 40000 calls"):
        parse_network(inner, "net")
    assert parse_network(model("m", model("n", None, 1), 3), "net").num_layers == 1


def test_network_of_more_values_than_any_is_refused(tmp_path, monkeypatch):
    from trainer.networks import keras_text

    monkeypatch.setattr(keras_text, "MAX_VALUES", 1000)
    path = tmp_path / "net.json"
    path.write_text("[" + "{}," * 1000 + "0]")
    with pytest.raises(NetworkError, match="more than 1,000 values"):
        load_network(path)
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    with pytest.raises(NetworkError, match="not a regular file"):
        load_network(tmp_path / "zero.json")


def test_layers_without_names_take_no_square_of_time():
    layers = [model("m", None, 0)["config"]["layers"][0], *[{"class_name": "ReLU"}] * 5000]
    graph = parse_network(layers, "net")
    assert [layer.path[-1] for layer in graph.layers()][1::4999] == ["re_lu", "re_lu_4999"]
