"""Weights of every file format, nested and shared layers, gray and colour, partial files."""

import json
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import torch
from keras import layers as kl
from keras_oracle import randomize, relative_error, to_first, to_last

from trainer.errors import WeightsError
from trainer.networks import load_network, network_json, parse_network
from trainer.networks.keras_weights import export_keras_h5
from trainer.networks.module import build_module
from trainer.networks.weights import load_weights

SHAPE = (16, 16, 3)
FIXTURES = Path(__file__).parent / "fixtures"
legacy = keras.src.legacy.saving.legacy_h5_format


def nested_model(channels=3):
    """A network with what makes names hard: shared, nested and doubly nested layers."""
    inputs = keras.Input((16, 16, channels), name="image")
    deep = keras.Sequential([keras.Input((8, 8, 4)), kl.Conv2D(4, 1, name="conv")], name="deep")
    middle_in = keras.Input((8, 8, 4))
    middle_x = kl.Conv2D(4, 3, padding="same", name="conv")(middle_in)
    middle_x = kl.BatchNormalization(name="bn")(middle_x)
    middle = keras.Model(middle_in, deep(middle_x), name="middle")
    x = kl.Conv2D(4, 3, strides=2, padding="same", name="conv")(inputs)
    x = middle(x)
    x = middle(x)
    shared = kl.DepthwiseConv2D(3, padding="same", name="shared")
    x = kl.Add()([shared(x), shared(shared(x))])
    x = kl.SeparableConv2D(4, 3, padding="same", name="sep")(x)
    x = kl.Conv2DTranspose(2, 3, strides=2, padding="same", name="up", activation="softmax")(x)
    return keras.Model(inputs, x)


def save_keras3(model, path):
    model.save(path)


def save_legacy(model, path):
    legacy.save_model_to_hdf5(model, path)


def save_legacy_weights(model, path):
    with h5py.File(path, "w") as file:
        legacy.save_weights_to_hdf5_group(file, model)


def save_numbered(model, path):
    model.save_weights(path)


def save_numbered_without_names(model, path):
    """As Keras 3.0 to 3.3 wrote: no layer's name in the file."""
    model.save_weights(path)

    def strip(name, item):
        item.attrs.pop("name", None)

    with h5py.File(path, "r+") as file:
        file.visititems(strip)
        file["vars"].attrs.pop("name", None)


FORMATS = {
    "m.keras": save_keras3,
    "m.h5": save_legacy,
    "w.h5": save_legacy_weights,
    "a b'.weights.h5": save_numbered,
    "old.weights.h5": save_numbered_without_names,
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_every_format_fills_every_parameter(name, tmp_path):
    model = nested_model()
    randomize(model)
    FORMATS[name](model, tmp_path / name)
    graph = parse_network(json.loads(model.to_json()), "net.json")
    module = build_module(graph, SHAPE).eval()
    lines = []
    report = load_weights(module, graph, tmp_path / name, lines.append)
    assert (report.num_skipped, report.num_missing) == (0, 0), lines
    assert len(lines) == 1
    x = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    theirs = model(x, training=False).detach().numpy()
    assert relative_error(to_last(module(to_first(x))), theirs) <= 1e-5


def test_state_dict_carries_the_layers_names():
    graph = parse_network(json.loads(nested_model().to_json()), "net.json")
    keys = set(build_module(graph, SHAPE).state_dict())
    assert {"conv.weight", "middle/conv.weight", "middle/deep/conv.bias", "shared.weight"} <= keys
    assert "sep.depthwise_weight" in keys


def nested_json():
    return json.loads(nested_model().to_json()), SHAPE


def builtin_json(spec):
    return network_json(spec, (32, 32, 3), 3), (32, 32, 3)


EXPORTED = {
    "nested": nested_json,
    "unet": lambda: builtin_json("unet:width=8,depth=2"),
    "pets": lambda: builtin_json("pets"),
    "light_unet": lambda: builtin_json("light_unet"),
    "fcn8s": lambda: builtin_json("fcn8s:fc=8"),
}


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.parametrize("file", ["w.h5", "by name.h5", "a b'.weights.h5"])
@pytest.mark.filterwarnings("ignore")
def test_keras_loads_what_was_exported(name, file, tmp_path):
    network, shape = EXPORTED[name]()
    model = keras.models.model_from_json(json.dumps(network))
    graph = parse_network(network, "net.json")
    assert [names[0] for names, _ in graph.listing if len(names) == 1] == [
        layer.name for layer in model.layers
    ]
    module = build_module(graph, shape).eval()
    for key, tensor in module.state_dict().items():
        if key.endswith("running_var") or (tensor.ndim == 1 and key.endswith("weight")):
            tensor.uniform_(0.5, 1.0)
        else:
            tensor.normal_(0, 0.1)
    export_keras_h5(module, graph, tmp_path / file)
    if file == "by name.h5":
        model.load_weights(tmp_path / file, by_name=True)
    else:
        model.load_weights(tmp_path / file)
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    theirs = model([x], training=False).detach().numpy()
    assert relative_error(to_last(module(to_first(x))), theirs) <= 1e-4


@pytest.mark.parametrize("nested_in_file", [True, False])
def test_encoder_matches_on_either_side_of_nesting(nested_in_file, tmp_path):
    def encoder():
        return keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                kl.Conv2D(4, 3, name="enc_a"),
                kl.Conv2D(4, 3, name="enc_b"),
            ],
            name="encoder",
        )

    flat = encoder()
    inputs = keras.Input((16, 16, 3))
    nested = keras.Model(inputs, kl.Conv2D(2, 1, name="head")(encoder()(inputs)))
    source, target = (nested, flat) if nested_in_file else (flat, nested)
    save_legacy_weights(source, tmp_path / "w.h5")
    graph = parse_network(json.loads(target.to_json()), "net.json")
    module = build_module(graph, SHAPE)
    report = load_weights(module, graph, tmp_path / "w.h5", lambda line: None)
    assert report.num_loaded == 4


@pytest.mark.parametrize("suffix", ["h5", "pt"])
@pytest.mark.parametrize("source, target", [(3, 1), (1, 3)])
def test_first_layer_adapts_between_gray_and_colour(source, target, suffix, tmp_path):
    def net(channels):
        spec = network_json("unet:width=8,depth=2", (16, 16, channels), 1)
        graph = parse_network(spec, "unet")
        return graph, build_module(graph, (16, 16, channels)).eval()

    graph, module = net(source)
    path = tmp_path / f"w.{suffix}"
    if suffix == "h5":
        export_keras_h5(module, graph, path)
    else:
        torch.save(module.state_dict(), path)
    other_graph, other = net(target)
    lines = []
    report = load_weights(other, other_graph, path, lines.append)
    assert report.num_skipped == 0
    assert sum("Adapting parameter enc0_conv.weight" in line for line in lines) == 1
    gray = torch.rand(1, 1, 16, 16)
    inputs = {1: gray, 3: gray.repeat(1, 3, 1, 1)}
    torch.testing.assert_close(module(inputs[source]), other(inputs[target]))


def test_half_an_encoder_is_refused_unless_allowed(tmp_path):
    graph = parse_network(network_json("unet:width=8,depth=3", (16, 16, 3), 1), "unet")
    module = build_module(graph, (16, 16, 3))
    state = {k: v + 1 for k, v in module.state_dict().items() if k.startswith("enc0")}
    before = module.state_dict()["enc0_conv.weight"].clone()
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"only [\d,]+ of the encoder's [\d,]+ numbers match"):
        load_weights(module, graph, tmp_path / "w.pt", lambda line: None)
    assert torch.equal(module.state_dict()["enc0_conv.weight"], before), "half loaded"
    report = load_weights(module, graph, tmp_path / "w.pt", lambda line: None, allow_partial=True)
    assert report.num_loaded == len(state)


def test_nothing_matching_is_refused(tmp_path):
    graph = parse_network(network_json("unet", (16, 16, 3), 1), "unet")
    module = build_module(graph, (16, 16, 3))
    torch.save({"other.weight": torch.ones(3)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="none of its 1 parameters matches"):
        load_weights(module, graph, tmp_path / "w.pt", lambda line: None, allow_partial=True)


@pytest.mark.parametrize("is_zip", [True, False])  # before torch 1.6 it was a plain pickle
def test_pickle_that_runs_code_is_refused(is_zip, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    path = tmp_path / "w.pt"
    torch.save({"state_dict": Evil()}, path, _use_new_zipfile_serialization=is_zip)
    graph = parse_network(network_json("unet", (16, 16, 3), 1), "unet")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(build_module(graph, (16, 16, 3)), graph, path, print)
    assert not (tmp_path / "owned").exists()


def test_long_lists_of_names_are_split_as_keras_splits_them(tmp_path):
    layers = [{"class_name": "InputLayer", "config": {"batch_input_shape": [None, 4, 4, 1]}}]
    layers += [
        {
            "class_name": "Conv2D",
            "config": {"name": f"{'long' * 20}{i}", "filters": 1, "kernel_size": 1},
        }
        for i in range(900)
    ]
    graph = parse_network(layers, "net")
    module = build_module(graph, (4, 4, 1))
    export_keras_h5(module, graph, tmp_path / "w.h5")
    other = build_module(graph, (4, 4, 1))
    assert load_weights(other, graph, tmp_path / "w.h5", lambda line: None).num_missing == 0


@pytest.mark.parametrize("suffix", [".h5", "_only.h5", ".keras", ".weights.h5", ".pt", ".pth"])
def test_damaged_file_loads_or_is_one_clear_error(suffix, tmp_path):
    graph = load_network(FIXTURES / "nested.json")
    module = build_module(graph, (16, 16, 1))
    path = tmp_path / f"damaged{suffix}"
    if suffix in (".pt", ".pth"):  # .pth: as before torch 1.6
        is_zip = suffix == ".pt"
        torch.save(module.state_dict(), path, _use_new_zipfile_serialization=is_zip)
        content = path.read_bytes()
    else:
        content = (FIXTURES / f"nested{suffix}").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(40):
        damaged = bytearray(content)
        if number % 2:
            del damaged[int(rng.integers(len(damaged))) :]
        else:
            for place in rng.integers(len(damaged), size=200):
                damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load_weights(module, graph, path, lambda line: None, allow_partial=True)
        except WeightsError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
    assert refused > 15


def test_fcn8s_starts_from_keras_vgg16(tmp_path):
    vgg = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    save_legacy_weights(vgg, tmp_path / "vgg16_notop.h5")
    graph = parse_network(network_json("fcn8s:fc=8", (32, 32, 3), 1), "fcn8s")
    module = build_module(graph, (32, 32, 3))
    report = load_weights(module, graph, tmp_path / "vgg16_notop.h5", lambda line: None)
    assert (report.num_loaded, report.num_skipped) == (26, 0)
    kernel = vgg.get_layer("block3_conv2").get_weights()[0]
    ours = module.state_dict()["block3_conv2.weight"].numpy()
    np.testing.assert_array_equal(ours, kernel.transpose(3, 2, 0, 1))
