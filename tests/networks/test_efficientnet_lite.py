"""`efficientunet` against the EfficientNet-Lite of another package, and its published weights."""

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet

from hpo.plan.weights import find_weights
from trainer.errors import WeightsError
from trainer.networks import network_json, parse_network
from trainer.networks.module import build_module
from trainer.networks.weights import load_weights

SIZE = 96  # the package pads for one size


def ours(lite, channels=3):
    shape = (SIZE, SIZE, channels)
    graph = parse_network(network_json(f"efficientunet:lite={lite}", shape, 1), "efficientunet")
    return graph, build_module(graph, shape)


def theirs(lite):
    """Their network with random statistics, else every normalization would be the identity."""
    torch.manual_seed(lite)
    network = EfficientNet.from_name(f"efficientnet-lite{lite}", image_size=SIZE)
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.2)
        elif name.endswith("running_var"):
            value.uniform_(0.6, 1.4)
    return network.eval()


def their_features(network, image):
    """Return what their blocks make of an image of ours: BGR, 0 to 1."""
    with torch.no_grad():
        x = (image.flip(1) * 255 - 127) / 128
        x = network._swish(network._bn0(network._conv_stem(x)))
        for block in network._blocks:
            x = block(x)
    return x


def our_features(module, image):
    """Return the last block's output: what the first decoder level reduces."""
    found = []
    layer = module.get_submodule(module.module_names["decoder0_reduce_conv"])
    handle = layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.no_grad():
        module.eval()(image)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("lite", [0, 1, 2])
def test_encoder_with_weights_by_their_names_equals_theirs(lite, tmp_path):
    network = theirs(lite)
    path = tmp_path / "weights.pth"
    # the published files are of torch 1.5
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    graph, module = ours(lite)
    lines = []
    report = load_weights(module, graph, path, lines.append)
    assert report.num_skipped == 7
    lacking = [line for line in lines[:-1] if line.endswith(": not found in model")]
    skipped = [line for line in lines[:-1] if line not in lacking]
    assert all("_conv_head" in line or "_bn1" in line or "_fc" in line for line in skipped)
    assert (len(skipped), len(lacking)) == (7, report.num_missing)
    image = torch.rand(2, 3, SIZE, SIZE)
    expected = their_features(network, image)
    error = (our_features(module, image) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5


def test_gray_image_gives_what_three_equal_channels_give(tmp_path):
    network = theirs(0)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    graph, module = ours(0, channels=1)
    load_weights(module, graph, tmp_path / "weights.pth", lambda line: None)
    image = torch.rand(1, 1, SIZE, SIZE)
    expected = their_features(network, image.expand(1, 3, SIZE, SIZE))
    error = (our_features(module, image) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5


def test_published_weights_come_from_the_installed_package(tmp_path):
    weights = find_weights("efficientnet-lite0", None, None)
    assert weights is not None
    weights.bring(tmp_path)
    graph, module = ours(0)
    report = load_weights(module, graph, tmp_path / weights.file, lambda line: None)
    assert report.num_loaded == 240
    published = torch.load(tmp_path / weights.file, weights_only=True)["_conv_stem.weight"]
    stem = module.get_submodule(module.module_names["stem_conv"])
    assert torch.equal(stem.weight, published.flip(1))


@pytest.mark.parametrize(
    "kernel",
    [torch.zeros(3), torch.zeros(1).expand(32, 3, 2**20, 2**20)],  # the latter: 384 TiB
)
def test_crafted_kernel_is_skipped_and_fills_no_memory(kernel, tmp_path):
    torch.save({**theirs(0).state_dict(), "_conv_stem.weight": kernel}, tmp_path / "weights.pth")
    graph, module = ours(0)
    lines = []
    load_weights(module, graph, tmp_path / "weights.pth", lines.append)
    assert any(line.startswith("Skipping parameter stem_conv.weight: shape") for line in lines)


def test_efficientnet_with_squeeze_and_excitation_is_refused(tmp_path):
    state = {**theirs(0).state_dict(), "_blocks.0._se_reduce.weight": torch.zeros(8, 32, 1, 1)}
    torch.save(state, tmp_path / "weights.pth")
    graph, module = ours(0)
    with pytest.raises(WeightsError, match="none of its"):
        load_weights(module, graph, tmp_path / "weights.pth", lambda line: None)
