"""Broken networks: each runs, or ends with one clear line; nothing is allocated before."""

import copy
import json
import random
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch

from trainer.errors import NetworkError
from trainer.networks import (
    check_network,
    load_network,
    network_json,
    parse_network,
)
from trainer.networks.module import build_module

NUM_CASES = 1000
NUM_PROCESSES = 20
SHAPE = (16, 16, 3)

ODD_VALUES = [
    None, True, False, -1, 0, 1, 2, 7, 10**6, 10**12, -(10**12), 10**400, 0.5, -0.0, 1e308,
    float("nan"), float("inf"), "", "relu", "same", "\x00", "x" * 5000, [], [0], [[]], [1, 2, 3],
    [-1, -1], [3, 3], [[1, 2], [3, 4]], {}, {"class_name": "function"}, {"class_name": 5},
    [["data", 0, 0, {}]], [[["nowhere", 0, 0, {}]]], [[["data", 5, 0, {}]]], "Conv2D", "Lambda",
]  # fmt: skip


def seeds():
    """Return valid networks with many kinds of layers, in the forms of Keras 2, 3 and lists."""
    import keras
    from keras import layers as kl

    inputs = keras.Input(SHAPE)
    x = kl.Conv2D(4, 3, padding="same", groups=1, activation="relu")(inputs)
    y = kl.DepthwiseConv2D(3, padding="same")(x)
    z = kl.PReLU(shared_axes=[1, 2])(kl.LayerNormalization()(y))
    x = kl.Concatenate()([kl.Add()([x, y]), z, kl.Multiply()([y, z])])
    x = kl.GroupNormalization(2)(kl.SeparableConv2D(4, 3, strides=2, padding="same")(x))
    inner = keras.Sequential([keras.Input((8, 8, 4)), kl.Conv2D(4, 1), kl.BatchNormalization()])
    x = kl.Conv2DTranspose(4, 3, strides=2, padding="same")(inner(inner(x)))
    x = kl.Cropping2D(1)(kl.ZeroPadding2D(1)(kl.Dropout(0.2)(x)))
    x = kl.UpSampling2D(2, interpolation="bilinear")(kl.AveragePooling2D(2, padding="same")(x))
    x = kl.Resizing(16, 16)(kl.Rescaling(0.5)(kl.MaxPooling2D(2)(x) * 2.0))
    x = kl.Permute((2, 1, 3))(kl.Reshape((16, 16, 4))(x))
    model = keras.Model(inputs, kl.Softmax()(kl.Dense(3)(x)))
    return [
        json.loads(model.to_json()),
        network_json("unet:width=4,depth=1", SHAPE, 2),
        network_json("pets", SHAPE, 3),
        network_json("fcn:width=2", SHAPE, 3)["config"]["layers"],
    ]


def places(obj, found=None):
    """List (container, key) of everything in a JSON value."""
    found = [] if found is None else found
    items = obj.items() if isinstance(obj, dict) else enumerate(obj)
    for key, value in list(items):
        found.append((obj, key))
        if isinstance(value, dict | list):
            places(value, found)
    return found


def mutate(network, rng):
    network = copy.deepcopy(network)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        container, key = rng.choice(places(network))
        kind = rng.randrange(6)
        if kind == 0:
            container.pop(key)
        elif kind == 1:  # another part of the network in its place: cycles, doubled names
            other, other_key = rng.choice(places(network))
            container[key] = copy.deepcopy(other[other_key])
        elif kind == 2 and isinstance(container[key], int | float):
            container[key] = container[key] * rng.choice([-1, 2, 1000, 10**9, 0.3])
        elif kind == 3:
            nest = container[key]
            for _ in range(rng.choice([1, 30])):
                nest = [nest] if rng.random() < 0.5 else {"config": nest}
            container[key] = nest
        else:
            container[key] = copy.deepcopy(rng.choice(ODD_VALUES))
        if not network:
            break
    return network


def try_network(network):
    """Return the error's line, or None if the network runs."""
    try:
        graph = parse_network(network, "net.json")
        facts = check_network(graph, SHAPE)
        if facts.num_trainable + facts.num_non_trainable > 10**6:
            return None
        shapes = build_module(graph, SHAPE).shapes
        if max(torch.Size(s).numel() for s in shapes.values()) > 10**7:
            return None
        module = build_module(graph, SHAPE).eval()
        with torch.no_grad():
            y = module(torch.zeros(1, SHAPE[2], *SHAPE[:2]))
    except NetworkError as error:
        return str(error)
    channels_first = (facts.output_shape[-1], *facts.output_shape[:-1])
    assert tuple(y.shape[1:]) == channels_first
    return None


def test_thousand_broken_networks_run_or_say_why():
    rng = random.Random(0)
    valid = seeds()
    for network in valid:
        assert try_network(network) is None
    refused = 0
    for number in range(NUM_CASES):
        network = mutate(valid[number % len(valid)], rng)
        try:
            line = try_network(network)
        except Exception as error:
            raise AssertionError(json.dumps(network)[:20000]) from error
        if line is not None:
            refused += 1
            assert line.startswith("net.json: "), line
            assert "\n" not in line, line
            assert len(line) < 2500, line
    assert 0.3 * NUM_CASES < refused < 0.95 * NUM_CASES, refused


def test_broken_files_end_processes_in_one_line(tmp_path):
    rng = random.Random(1)
    valid = seeds()
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), np.zeros(SHAPE, np.uint8))
    texts = [json.dumps(mutate(valid[n % 4], rng)) for n in range(NUM_PROCESSES - 6)]
    texts += ["", "[" * 100_000, '{"a":' * 5000, "\ud83d", json.dumps(valid[0])[:999], "[1e999]"]

    def run(number, text):
        path = tmp_path / f"n {number}'.json"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        data = {"test_input_path": "images"}
        config = {"neural_network": {"layers": path.name, "data": data}}
        (tmp_path / f"config{number}.json").write_text(json.dumps(config))
        return subprocess.run(
            [sys.executable, "-m", "trainer.cli", f"--config=config{number}.json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    with ThreadPoolExecutor(max_workers=2) as pool:
        results = list(pool.map(run, range(len(texts)), texts))
    for done in results:
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, 2), done.stderr
        assert len(done.stderr.splitlines()) == (done.returncode == 2)
    assert {done.returncode for done in results} == {0, 2}


HUGE = {
    "filters": ("Conv2D", {"filters": 10**9, "kernel_size": 99}, "parameters"),
    "units": ("Dense", {"units": 2**31 - 1}, "parameters"),
    "padding": ("ZeroPadding2D", {"padding": 10**6}, "numbers for each image"),
    "upsampling": ("UpSampling2D", {"size": 10**5}, "numbers for each image"),
    "kernel": ("MaxPooling2D", {"pool_size": 10**9, "padding": "same"}, "its kernel reaches over"),
    "dilation": (
        "Conv2DTranspose",
        {"filters": 1, "kernel_size": 3, "dilation_rate": 10**9, "padding": "same"},
        "its kernel reaches over",
    ),
    "beyond": ("Conv2D", {"filters": 10**12, "kernel_size": 3}, "filters: expected"),
}


@pytest.mark.parametrize("name", HUGE)
def test_absurd_sizes_are_refused_by_arithmetic(name):
    kind, config, message = HUGE[name]
    network = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, *SHAPE]}},
        {"class_name": "GlobalAveragePooling2D", "config": {"keepdims": True}},
        {
            "class_name": kind,
            "config": {"name": "huge", **config, "padding": config.get("padding", "same")},
        },
        {"class_name": "Conv2D", "config": {"name": "after", "filters": 1000, "kernel_size": 1}},
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(NetworkError, match=rf"net: layer '(huge|after)' .*{message}"):
        check_network(parse_network(network, "net"), SHAPE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_nested_models_cannot_explode():
    """Each level calls the one below twice: 2^n nodes unless it is refused."""
    layer = {
        "class_name": "Activation",
        "name": "a",
        "config": {"name": "a", "activation": "relu"},
    }

    def wrap(inner, level):
        shape = {"batch_input_shape": [None, 4, 4, 1], "name": "i"}
        calls = [[["i", 0, 0, {}]]] + [[["m", n, 0, {}]] for n in range(9)]
        inner = {**inner, "name": "m", "config": {**inner["config"], "name": "m"}}
        inner["inbound_nodes"] = calls
        layers = [{"class_name": "InputLayer", "name": "i", "config": shape, "inbound_nodes": []}]
        config = {
            "name": f"l{level}",
            "layers": [*layers, inner],
            "input_layers": [["i", 0, 0]],
            "output_layers": [["m", 9, 0]],
        }
        return {"class_name": "Model", "config": config}

    network = layer
    for level in range(7):
        network = wrap(network, level)
    with pytest.raises(NetworkError, match="calls of layers"):
        parse_network(network, "net")


def test_cycle_is_named():
    network = network_json("unet:width=4,depth=1", SHAPE, 1)
    layers = network["config"]["layers"]
    layers[1]["inbound_nodes"] = [[[layers[4]["name"], 0, 0, {}]]]
    with pytest.raises(NetworkError, match=r"cycle: '\w+' -> '\w+'"):
        parse_network(network, "net")


def test_large_file_is_refused_unread(tmp_path):
    path = tmp_path / "net.json"
    with path.open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(NetworkError, match="larger than 64 MiB"):
        load_network(path)
