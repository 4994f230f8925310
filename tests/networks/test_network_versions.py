"""Networks of Keras 2 and of Keras 3 in every kind of file: a name means what it meant there."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
import torch
from keras import layers as kl
from keras_oracle import TOLERANCE, randomize, relative_error, to_first, to_last

from trainer.networks import load_network, parse_network
from trainer.networks.keras_version import keras_major
from trainer.networks.module import build_module
from trainer.networks.weights import load_weights

SHAPE = (6, 5, 3)


@keras.saving.register_keras_serializable("versions", "keras2_hard_sigmoid")
def keras2_hard_sigmoid(x):
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def model_with(hard_sigmoid):
    inner = keras.Sequential(
        [keras.Input((6, 5, 4)), kl.Conv2D(4, 1, activation=hard_sigmoid, name="in")], name="inner"
    )
    inputs = keras.Input(SHAPE, name="image")
    x = kl.Conv2D(4, 3, padding="same", activation=hard_sigmoid, name="conv")(inputs)
    x = kl.Activation(hard_sigmoid, name="act")(inner(x))
    model = keras.Model(inputs, kl.Conv2D(2, 1, name="head")(x), name="net")
    randomize(model)
    return model


def keras2_call(node):
    tensors = node["args"][0]
    tensors = tensors if isinstance(tensors, list) else [tensors]
    return [[*tensor["config"]["keras_history"], {}] for tensor in tensors]


def as_keras2(item):
    """Rewrite a network's JSON as Keras 2.9 wrote it."""
    if isinstance(item, list):
        return [as_keras2(part) for part in item]
    if not isinstance(item, dict):
        return item
    if item.get("class_name") == "DTypePolicy":
        return item["config"]["name"]
    renamed = {"batch_shape": "batch_input_shape"}
    result = {
        renamed.get(key, key): as_keras2(value)
        for key, value in item.items()
        if key not in ("module", "registered_name", "build_config", "optional")
    }
    if result.get("inbound_nodes"):
        result["inbound_nodes"] = [keras2_call(node) for node in item["inbound_nodes"]]
    for key in ("input_layers", "output_layers"):
        if key in result and isinstance(result[key][0], str):
            result[key] = [result[key]]
    return result


def keras2_json(model, archived=False):
    """Return a network's JSON as Keras 2 had it; its archives have each object's module too."""
    network = as_keras2(json.loads(model.to_json()))
    if archived:
        network |= {"module": "keras.src.engine.functional", "registered_name": "Functional",
                    "build_config": {"input_shape": [None, *SHAPE]}}  # fmt: skip
    text = json.dumps(network)
    assert "hard_sigmoid" in text
    return json.loads(text)


def write_keras3(model, kind, folder):
    path = folder / f"net.{kind}"
    if kind == "json":
        path.write_text(model.to_json())
    else:
        model.save(path)
    return path


def write_keras2(model, kind, folder):
    path = folder / f"net.{kind}"
    if kind == "json":
        network = keras2_json(model) | {"keras_version": "2.9.0", "backend": "tensorflow"}
        path.write_text(json.dumps(network))
    elif kind == "h5":
        model.save(path)
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = json.dumps(keras2_json(model))
            file.attrs["keras_version"] = "2.9.0"
    else:
        model.save(folder / "keras3.keras")
        with (
            zipfile.ZipFile(folder / "keras3.keras") as source,
            zipfile.ZipFile(path, "w") as target,
        ):
            target.writestr("config.json", json.dumps(keras2_json(model, archived=True)))
            target.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
            target.writestr("model.weights.h5", source.read("model.weights.h5"))
    return path


@pytest.mark.parametrize("weights", ["w.weights.h5", "network"])
@pytest.mark.parametrize("kind", ["json", "h5", "keras"])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.filterwarnings("ignore")
def test_hard_sigmoid_is_that_of_the_files_keras(version, kind, weights, tmp_path):
    model = model_with("hard_sigmoid")
    path = {2: write_keras2, 3: write_keras3}[version](model, kind, tmp_path)
    graph = load_network(path)
    source = path
    if weights != "network" or kind == "json":
        source = tmp_path / "w.weights.h5"
        model.save_weights(source)
    module = build_module(graph, SHAPE).eval()
    report = load_weights(module, graph, source, lambda line: None)
    assert (report.num_skipped, report.num_missing) == (0, 0)
    reference = model
    if version == 2:
        reference = model_with(keras2_hard_sigmoid)
        reference.set_weights(model.get_weights())
    x = np.random.default_rng(0).normal(0.3, 2, (2, *SHAPE)).astype("float32")
    theirs_in, ours_in = torch.from_numpy(x).requires_grad_(), to_first(x).requires_grad_()
    theirs, ours = reference(theirs_in, training=False), module.logits(ours_in)
    assert relative_error(to_last(ours), theirs.detach().numpy()) <= TOLERANCE
    (theirs**2).sum().backward()
    (ours**2).sum().backward()
    assert relative_error(to_last(ours_in.grad), theirs_in.grad.numpy()) <= TOLERANCE


def without_version(network):
    return {key: value for key, value in network.items() if key != "keras_version"}


@pytest.mark.filterwarnings("ignore")
def test_version_shows_in_the_form_where_nothing_states_it(tmp_path):
    model = model_with("hard_sigmoid")
    keras3 = json.loads(model.to_json())
    assert keras_major(without_version(keras3)) == 3
    assert keras_major(keras3["config"]["layers"]) == 3, "an inline list of layers"
    assert keras_major(keras2_json(model)) == 2
    assert keras_major(keras2_json(model, archived=True)) == 2
    assert keras_major([{"class_name": "Conv2D", "config": {"filters": 2}}]) == 2


def test_version_beside_a_wrapped_network_counts():
    layers = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 4, 4, 1]}},
        {"class_name": "Activation", "config": {"activation": "hard_sigmoid"}},
    ]
    network = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
    for model_config in (network, json.dumps(network)):
        graph = parse_network({"model_config": model_config, "keras_version": "3.4.1"}, "x")
        assert graph.nodes[-1].layer.spec.activation.name == "hard_sigmoid"


@pytest.mark.parametrize("axes", [[-1], [0], [1], [-2], [1, -1]])
def test_prelu_shares_the_axes_that_keras_shares(axes, tmp_path):
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, kl.PReLU(shared_axes=axes, name="prelu")(inputs))
    randomize(model)
    model.save_weights(tmp_path / "w.weights.h5")
    graph = parse_network(json.loads(model.to_json()), "net.json")
    module = build_module(graph, SHAPE).eval()
    assert load_weights(module, graph, tmp_path / "w.weights.h5", print).num_skipped == 0
    x = np.random.default_rng(0).normal(0, 1, (2, *SHAPE)).astype("float32")
    theirs = model(x).detach().numpy()
    assert relative_error(to_last(module(to_first(x))), theirs) <= TOLERANCE


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_relu_at_its_threshold_is_keras(slope):
    layer = kl.ReLU(threshold=0.5, negative_slope=slope)
    inputs = keras.Input((1, 5, 1))
    model = keras.Model(inputs, layer(inputs))
    x = np.array([0.25, 0.5, 0.75, 1.0, 0.0], dtype="float32").reshape(1, 1, 5, 1)
    module = build_module(parse_network(json.loads(model.to_json()), "net"), (1, 5, 1)).eval()
    theirs = model(x).detach().numpy()
    np.testing.assert_allclose(to_last(module(to_first(x))), theirs, atol=1e-7)


@pytest.mark.parametrize(
    "written, function",
    [("ReLU", "relu"), ("Log_Softmax", "log_softmax"), ("Sigmoid", "sigmoid"), ("TANH", "tanh"),
     ("Swish", "silu"), ("Linear", "linear"), ("SoftMax", "softmax"), ("LeakyReLU", "leaky_relu")],
)  # fmt: skip
def test_activation_names_count_in_any_case(written, function):
    layers = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 4, 4, 1]}},
        {"class_name": "Activation", "config": {"activation": written}},
    ]
    assert parse_network(layers, "x").nodes[-1].layer.spec.activation.name == function
