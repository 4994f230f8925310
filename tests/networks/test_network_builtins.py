"""The built-in networks and a first round of layers against Keras."""

import json
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import torch
from keras import layers
from keras_oracle import TOLERANCE, compare, randomize, to_first, to_last

from trainer.errors import NetworkError, WeightsError
from trainer.networks import (
    check_network,
    infer_shapes,
    is_builtin,
    load_network,
    network_json,
    parse_network,
    takes_colour,
)
from trainer.networks.module import build_module
from trainer.networks.weights import load_weights


def quiet(line):
    pass


def build(spec, shape, classes=1):
    graph = parse_network(network_json(spec, shape, classes), spec)
    return graph, build_module(graph, shape)


def test_importing_the_package_leaves_torch_alone():
    code = "import sys, trainer.networks; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_resunet_has_the_known_layers_and_parameters():
    graph = parse_network(network_json("resunet", (256, 256, 3), 1), "resunet")
    facts = check_network(graph, (256, 256, 3))
    assert facts.num_layers == 231
    assert facts.num_trainable == 32_513_556
    assert facts.num_non_trainable == 47_558
    assert facts.output_shape == (256, 256, 1)
    assert facts.final_activation == "sigmoid"


@pytest.mark.parametrize(
    "spec, shape, classes, trainable",
    [
        ("pets", (160, 160, 3), 3, 2_055_203),
        ("fcn", (256, 256, 1), 6, 63_686),
        ("large_fcn", (256, 256, 1), 6, 973_574),
        ("light_unet", (256, 192, 1), 6, 3_873_094),
        ("fcn8s", (224, 224, 3), 21, 134_362_751),
        # AlexNet's 60,965,224 with a classifier of 1x1x4096 in place of its fc8
        ("fcn_alexnet", (256, 256, 3), 21, 60_965_224 - 4097 * 1000 + 4097 * 21),
    ],
)
def test_builtin_has_the_published_number_of_parameters(spec, shape, classes, trainable):
    facts = check_network(parse_network(network_json(spec, shape, classes), spec), shape)
    assert facts.num_trainable == trainable
    assert facts.output_shape == (*shape[:2], classes)
    assert facts.final_activation == "softmax"


@pytest.mark.parametrize(
    "spec",
    ["unet", "unet:width=8,depth=2", "efficientunet", "resunet", "pets", "fcn", "large_fcn",
     "light_unet", "fcn8s:fc=64", "fcn_alexnet:fc=64"],
)  # fmt: skip
def test_builtin_equals_keras_reading_the_same_file(spec, tmp_path):
    shape, classes = ((64, 64, 1), 1) if spec in ("unet", "fcn") else ((64, 96, 3), 3)
    text = json.dumps(network_json(spec, shape, classes))
    model = keras.models.model_from_json(text)
    randomize(model)
    assert compare(model, tmp_path, shape, varied=True) <= TOLERANCE
    assert is_builtin(spec)


def test_checkpoint_restores_the_network(tmp_path):
    graph, module = build("unet:width=8,depth=2", (32, 32, 1))
    _, other = build("unet:width=8,depth=2", (32, 32, 1))
    path = tmp_path / "model.pt"
    torch.save({"format": 1, "state_dict": module.state_dict()}, path)
    report = load_weights(other, graph, path, quiet)
    assert (report.num_skipped, report.num_missing) == (0, 0)
    assert report.num_loaded == len(module.state_dict())
    for key, value in module.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_unmatched_parameter_is_skipped_with_the_known_line(tmp_path):
    inputs = keras.Input((32, 32, 3), name="data")
    x = layers.BatchNormalization(name="bn_data")(inputs)
    model = keras.Model(inputs, x)
    path = tmp_path / "old.h5"
    keras.src.legacy.saving.legacy_h5_format.save_model_to_hdf5(model, path)
    graph, module = build("resunet", (32, 32, 3))
    lines = []
    report = load_weights(module, graph, path, lines.append, allow_partial=True)
    assert any(
        line.startswith("Skipping parameter bn_data.weight (bn_data/gamma") for line in lines
    )
    assert (report.num_loaded, report.num_skipped) == (3, 1)


@pytest.mark.parametrize("content", [None, b"", b"not weights", b"\x89HDF\r\n\x1a\n" + b"x" * 99])
def test_bad_weights_file_is_one_clear_error(content, tmp_path):
    graph, module = build("unet:width=4,depth=1", (16, 16, 1))
    path = tmp_path / "w.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.h5: "):
        load_weights(module, graph, path, quiet)


def test_size_that_does_not_fit_names_the_nearest():
    graph = parse_network(network_json("resunet", (256, 256, 3), 1), "net.json")
    with pytest.raises(NetworkError, match=r"decoder_stage2_concat.*224×224 and 256×256.*32"):
        infer_shapes(graph, (250, 250, 3))
    with pytest.raises(NetworkError, match="takes 3 channels, the data has 1"):
        infer_shapes(graph, (256, 256, 1))


def test_training_step_updates_batch_statistics_as_keras(tmp_path):
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), layers.BatchNormalization(momentum=0.9, epsilon=1e-2)]
    )
    randomize(model)
    graph = parse_network(json.loads(model.to_json()), "net.json")
    module = build_module(graph, (4, 4, 3))
    path = tmp_path / "w.h5"
    keras.src.legacy.saving.legacy_h5_format.save_model_to_hdf5(model, path)
    load_weights(module, graph, path, quiet)
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    theirs = model(x, training=True).detach().numpy()
    module.train()
    y = module(to_first(x))
    np.testing.assert_allclose(to_last(y), theirs, atol=1e-5)
    norm = model.layers[-1]
    state = {key.split(".")[1]: value.numpy() for key, value in module.state_dict().items()}
    np.testing.assert_allclose(state["running_var"], norm.moving_variance.numpy(), rtol=1e-5)
    np.testing.assert_allclose(state["running_mean"], norm.moving_mean.numpy(), rtol=1e-5)
    (y**2).sum().backward()


def test_resunet_is_parsed_and_built_within_a_second():
    network = network_json("resunet", (256, 256, 3), 1)
    start = time.process_time()
    build_module(parse_network(network, "net.json"), (256, 256, 3))
    assert time.process_time() - start < 1.0


def test_unknown_builtin_names_the_nearest():
    with pytest.raises(NetworkError, match="did you mean 'resunet'"):
        network_json("resnet", (64, 64, 3), 1)
    with pytest.raises(NetworkError, match="did you mean 'width'"):
        network_json("unet:widht=4", (64, 64, 3), 1)
    with pytest.raises(NetworkError, match="width: expected a whole number from 2 to 512"):
        network_json("unet:width=0", (64, 64, 3), 1)


def test_file_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "a b'.json"
    path.write_text("{oops")
    with pytest.raises(NetworkError, match=r"a b'\.json: is no JSON"):
        load_network(path)
    with pytest.raises(NetworkError, match="no such file"):
        load_network(tmp_path / "missing.json")


def test_build_is_reproducible_and_seeded():
    torch.manual_seed(7)
    first = build("unet", (32, 32, 1))[1].state_dict()
    torch.manual_seed(7)
    second = build("unet", (32, 32, 1))[1].state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("resunet", True), ("resunet:width=8", True), ("unet", False), ("resunet_of_mine", False)],
)
def test_only_networks_of_colour_weights_read_gray_images_as_colours(
    spec: str, expected: bool
) -> None:
    assert takes_colour(spec) is expected
