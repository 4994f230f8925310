"""What networks and weights of the contract have beside Keras's: paddings, affine, skipping."""

import pytest
import torch

from trainer.errors import NetworkError
from trainer.networks import check_network, network_json, parse_network
from trainer.networks.module import build_module
from trainer.networks.weights import load_weights

INPUT = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 9, 8, 2]}}


def one_layer(kind, **config):
    return parse_network([INPUT, {"class_name": kind, "config": {"name": "it", **config}}], "net")


@pytest.mark.parametrize("padding", [0, 1, [1, 1], [2, 0]])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_of_numbers_is_torchs(padding, stride):
    graph = one_layer("Conv2D", filters=3, kernel_size=3, strides=stride, padding=padding)
    module = build_module(graph, (9, 8, 2))
    state = module.state_dict()
    x = torch.rand(2, 2, 9, 8)
    pads = tuple(padding) if isinstance(padding, list) else padding
    expected = torch.nn.functional.conv2d(x, state["it.weight"], state["it.bias"], stride, pads)
    torch.testing.assert_close(module(x), expected)
    height, width, channels = check_network(graph, (9, 8, 2)).output_shape
    assert (channels, height, width) == tuple(expected.shape[1:])


@pytest.mark.parametrize("kind", ["DepthwiseConv2D", "SeparableConv2D"])
def test_padding_of_numbers_on_other_convolutions(kind):
    extra = {"filters": 3} if kind == "SeparableConv2D" else {}
    shapes = [
        check_network(one_layer(kind, kernel_size=3, padding=p, **extra), (9, 8, 2)).output_shape
        for p in (1, "same")
    ]
    modules = [
        build_module(one_layer(kind, kernel_size=3, padding=p, **extra), (9, 8, 2))
        for p in (1, "same")
    ]
    assert shapes[0] == shapes[1]
    modules[1].load_state_dict(modules[0].state_dict())
    x = torch.rand(1, 2, 9, 8)
    torch.testing.assert_close(modules[0](x), modules[1](x))


@pytest.mark.parametrize("padding", [-1, [1], [1, 1, 1], 1.5, True, "causal"])
def test_wrong_padding_names_layer_and_key(padding):
    with pytest.raises(NetworkError, match=r"layer 'it' \(Conv2D\): padding: expected"):
        one_layer("Conv2D", filters=3, kernel_size=3, padding=padding)


def test_instance_normalization_without_affine_has_no_weights():
    graph = one_layer("InstanceNormalization", affine=False, epsilon=1e-5)
    module = build_module(graph, (9, 8, 2))
    assert not module.state_dict()
    x = torch.rand(2, 2, 9, 8)
    torch.testing.assert_close(module(x), torch.nn.InstanceNorm2d(2)(x))


def test_not_found_in_model_lists_what_the_file_lacks(tmp_path):
    graph = parse_network(network_json("unet:width=4,depth=2", (16, 16, 1), 1), "unet")
    module = build_module(graph, (16, 16, 1))
    state = dict(module.state_dict())
    lacking = [key for key in state if key.startswith("head")] or [list(state)[-1]]
    for key in lacking:
        del state[key]
    state["other.weight"] = torch.ones(2)
    torch.save(state, tmp_path / "w.pt")
    lines = []
    report = load_weights(module, graph, tmp_path / "w.pt", lines.append)
    assert [x for x in lines if x.endswith("not found in model")] == [
        f"Skipping parameter {key}: not found in model" for key in lacking
    ]
    assert "Skipping parameter other.weight: the network has no such parameter" in lines
    assert (report.num_skipped, report.num_missing) == (1, len(lacking))


def test_counting_as_keras_is_said_once():
    norm = {"class_name": "BatchNormalization", "config": {"scale": False, "center": False}}
    graph = parse_network([INPUT, norm, norm], "net")
    assert check_network(graph, (9, 8, 2)).num_trainable == 0
    (note,) = graph.notes
    assert "counted as Keras does" in note
