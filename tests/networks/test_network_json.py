"""The forms in which networks come, and the errors of what cannot be read."""

import json

import keras
import pytest
import torch
from keras import layers as kl
from keras_oracle import TOLERANCE, compare, randomize

from trainer.errors import NetworkError
from trainer.networks import (
    check_network,
    count_parameters,
    infer_shapes,
    network_json,
    parse_network,
)
from trainer.networks.module import build_module

INPUT = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 8, 8, 3]}}
CONV = {"class_name": "Conv2D", "config": {"filters": 2, "kernel_size": 3, "padding": "same"}}


def layer(kind, inbound=None, name=None, **config):
    obj = {"class_name": kind, "config": config}
    if inbound is not None:
        obj["inbound_nodes"] = inbound
    if name is not None:
        obj["name"] = name
    return obj


def outputs(network):
    graph = parse_network(network, "net.json")
    shapes = infer_shapes(graph, (8, 8, 3))
    return shapes[graph.output]


FORMS = {
    "list": [INPUT, CONV, CONV],
    "layers": {"layers": [INPUT, CONV, CONV]},
    "named calls": [
        {**INPUT, "name": "a"},
        {**CONV, "name": "b", "inbound_nodes": ["a"]},
        layer("Add", ["b", "b"], "c"),
    ],
    "Keras 2.1 Sequential": {
        "class_name": "Sequential",
        "config": [
            layer("Conv2D", filters=2, kernel_size=[3, 3], padding="same",
                  batch_input_shape=[None, 8, 8, 3], data_format="channels_last"),
            CONV,
        ],
    },
    "Keras 2 Sequential": {
        "class_name": "Sequential",
        "config": {"name": "s", "layers": [INPUT, CONV, CONV]},
        "keras_version": "2.2.4-tf",
    },
    "without tensor numbers": {
        "class_name": "Model",
        "config": {
            "layers": [
                {**INPUT, "name": "a", "inbound_nodes": []},
                {**CONV, "name": "b", "inbound_nodes": [[["a", 0, 0]]]},
            ],
            "input_layers": [["a", 0, 0]],
            "output_layers": [["b", 0, 0]],
        },
    },
    "one tensor without its list": {
        "class_name": "Functional",
        "config": {
            "layers": [
                {**INPUT, "name": "a", "inbound_nodes": []},
                {**CONV, "name": "b", "inbound_nodes": [["a", 0, 0, {}]]},
            ],
            "input_layers": ["a", 0, 0],
            "output_layers": ["b", 0, 0],
        },
    },
    "text of JSON": json.dumps([INPUT, CONV]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_form_is_read(form):
    assert outputs(FORMS[form]) == (8, 8, 2)


def test_real_files_extra_keys_are_ignored():
    """Depthwise, separable and transposed layers carry keys of the class that they extend."""
    extra = {"kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}},
             "kernel_regularizer": None, "kernel_constraint": None, "filters": 4,
             "groups": 1, "dilation_rate": [1, 1]}  # fmt: skip
    network = [
        INPUT,
        layer("DepthwiseConv2D", kernel_size=[3, 3], **{**extra, "filters": None}),
        layer("SeparableConv2D", kernel_size=[3, 3], depthwise_initializer="he_normal", **extra),
        layer("Conv2DTranspose", kernel_size=[3, 3], output_padding=None, **extra),
        layer("Activation", activation="log_softmax_v2"),
    ]
    graph = parse_network(network, "net.json")
    assert check_network(graph, (8, 8, 3)).final_activation == "log_softmax"


def test_frozen_layer_stays_in_inference_mode_and_counts_as_keras(tmp_path):
    inputs = keras.Input((8, 8, 3))
    frozen = kl.BatchNormalization(trainable=False, name="bn")
    x = kl.Conv2D(4, 3, trainable=False, name="conv")(inputs)
    model = keras.Model(inputs, kl.Conv2D(2, 1, name="head")(frozen(x)))
    randomize(model)
    assert compare(model, tmp_path, (8, 8, 3)) <= TOLERANCE
    module = build_module(parse_network(json.loads(model.to_json()), "net"), (8, 8, 3)).train()
    before = module.state_dict()["bn.running_mean"].clone()
    module(torch.rand(2, 3, 8, 8)).sum().backward()
    assert torch.equal(module.state_dict()["bn.running_mean"], before)
    trained = {name for name, p in module.named_parameters() if p.grad is not None}
    assert trained == {"head.weight", "head.bias"}


def test_operations_beside_layers_equal_keras(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = kl.Conv2D(3, 3, padding="same")(inputs)
    x = (1.0 - x) * 0.5 + inputs / 3.0
    x = keras.ops.concatenate([keras.ops.relu(x), x * x, x - 2], axis=-1)
    model = keras.Model(inputs, kl.Conv2D(2, 1)(x))
    randomize(model)
    assert compare(model, tmp_path, (8, 8, 3)) <= TOLERANCE


def test_operations_of_keras2_are_read():
    calls = [
        layer("TFOpLambda", [["in", 0, 0, {"y": 3.0, "name": None}]], "p", function="math.add"),
        layer("TFOpLambda", [["_CONSTANT_VALUE", -1, 1.0, {"y": ["p", 0, 0]}]], "q",
              function="math.subtract"),
        layer("TFOpLambda", [["q", 0, 0, {"y": ["in", 0, 0]}]], "r", function="math.multiply"),
        layer("TFOpLambda", [[["r", 0, 0, {"axis": -1}], ["q", 0, 0, {"axis": -1}]]], "s",
              function="concat"),
        layer("TFOpLambda", [["s", 0, 0, {"name": None}]], "t", function="nn.relu6"),
    ]  # fmt: skip
    network = {"layers": [{**INPUT, "name": "in", "inbound_nodes": []}, *calls]}
    module = build_module(parse_network(network, "net"), (8, 8, 3))
    x = torch.rand(1, 3, 8, 8)
    q = 1.0 - (x + 3.0)
    torch.testing.assert_close(module(x), torch.cat([q * x, q], 1).clamp(0, 6))


def test_several_calls_share_one_set_of_weights():
    shared = [[["in", 0, 0]], [["conv", 0, 0]]]
    network = [
        {**INPUT, "name": "in", "inbound_nodes": []},
        layer("Conv2D", shared, "conv", filters=3, kernel_size=1),
        layer("Add", [[["conv", 0, 0], ["conv", 1, 0]]], "sum"),
    ]
    graph = parse_network(network, "net")
    assert count_parameters(graph, (8, 8, 3)) == (12, 0)


def test_names_that_torch_forbids_are_replaced():
    network = [
        INPUT,
        layer("Conv2D", name="a.b/c", filters=1, kernel_size=1),
        layer("Conv2D", name="a_b/c", filters=1, kernel_size=1),
        layer("Conv2D", name="forward", filters=1, kernel_size=1),
        layer("Conv2D", name="_steps", filters=1, kernel_size=1),
        layer("Conv2D", name="final_activation", filters=1, kernel_size=1),
    ]
    module = build_module(parse_network(network, "net"), (8, 8, 3))
    assert len(module.state_dict()) == 10
    assert module(torch.rand(1, 3, 8, 8)).shape == (1, 1, 8, 8)


def test_one_pixel_batch_trains_through_a_normalization():
    network = [INPUT, layer("BatchNormalization"), layer("MaxPooling2D", pool_size=8),
               layer("BatchNormalization"), layer("Conv2D", filters=2, kernel_size=1)]  # fmt: skip
    module = build_module(parse_network(network, "net"), (8, 8, 3)).train()
    module(torch.rand(1, 3, 8, 8)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


TENSOR = {"class_name": "__keras_tensor__", "config": {"keras_history": ["a", 0, 0]}}
POWER = layer("Power", [{"args": [TENSOR, 2.0], "kwargs": {}}], "p")
WRONG = {
    "two inputs": (
        [{**INPUT, "name": "a"}, {**INPUT, "name": "b"}, layer("Add", ["a", "b"])],
        r"the network has 2 inputs .*expected exactly one",
    ),
    "two outputs": (
        [{**INPUT, "name": "a"}, layer("ReLU", ["a"], "b"), layer("ReLU", ["a"], "c")],
        r"the network has 2 outputs \('b', 'c'\)",
    ),
    "missing key": (
        [INPUT, layer("Conv2D", kernel_size=3)],
        r"layer 'conv2d' \(Conv2D\): filters: missing",
    ),
    "wrong stride": (
        [INPUT, layer("Conv2D", filters=2, kernel_size=3, strides=[0, 1])],
        r"strides: expected 2 whole numbers from 1 on, received \[0, 1\]",
    ),
    "slip in a class": ([INPUT, layer("Conv2d", filters=1)], r"did you mean 'Conv2D'\?"),
    "slip in a function": (
        [INPUT, layer("Activation", activation="rleu")],
        r"activation: unknown activation 'rleu'; did you mean 'relu'",
    ),
    "Lambda": ([INPUT, layer("Lambda", function=["code"])], r"holds Python code"),
    "channels first": (
        [INPUT, layer("Conv2D", filters=1, kernel_size=1, data_format="channels_first")],
        r"data_format: expected channels_last",
    ),
    "unknown source": (
        [INPUT, layer("ReLU", ["convv"], "x")],
        r"layer 'x': inbound_nodes: there is no layer 'convv'",
    ),
    "shapes differ": (
        [{**INPUT, "name": "a"}, layer("Conv2D", ["a"], "b", filters=3, kernel_size=2),
         layer("Add", ["a", "b"], "c")],
        r"'c' \(Add\): its inputs differ: \(N, 8, 8, 3\) and \(N, 7, 7, 3\) \(from 'a', 'b'\)",
    ),
    "subclassed model": (
        {"class_name": "MyNet", "config": {}},
        r"class_name: expected one of Model",
    ),
    "operation": (
        [{**INPUT, "name": "a"}, {**POWER, "module": "keras.src.ops.numpy"}],
        r'layer \'p\': the operation "Power" is not supported',
    ),
    "Attention": (
        [INPUT, layer("MultiHeadAttention", num_heads=2, key_dim=2)],
        r"layer 'multi_head_attention' \(MultiHeadAttention\): class_name: not supported",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_network_names_layer_key_and_remedy(name):
    network, message = WRONG[name]
    with pytest.raises(NetworkError, match=message) as caught:
        check_network(parse_network(network, "net.json"), (8, 8, 3))
    assert "\n" not in str(caught.value)


def test_weights_bound_to_a_size_refuse_another():
    network = [INPUT, layer("Flatten"), layer("Dense", units=4)]
    graph = parse_network(network, "net.json")
    check_network(graph, (8, 8, 3))
    with pytest.raises(NetworkError, match=r"'dense'.*only inputs of 8×8.*resize the images"):
        check_network(graph, (16, 16, 3))
    check_network(parse_network(network_json("unet", (64, 64, 3), 1), "n"), (96, 128, 3))


def test_regularizers_are_noted():
    network = [INPUT, layer("Conv2D", filters=1, kernel_size=1, kernel_regularizer={"x": 1})]
    (note,) = parse_network(network, "net.json").notes
    assert "layer 'conv2d' (Conv2D): kernel_regularizer is ignored" in note
