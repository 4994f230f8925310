"""Every layer and built-in network keeps to what CUDA accepts, without a GPU."""

from __future__ import annotations

import pytest
import torch
from cuda_rules import META, RefusedError, cuda_rules
from layer_cases import CASES, Case
from torch import nn

from trainer.loading.augment import channels_last
from trainer.networks import network_json, parse_network
from trainer.networks.forward import forward_logits
from trainer.networks.module import KerasModule, build_module

NETWORKS = [
    "unet:width=4,depth=2", "efficientunet", "resunet", "pets", "fcn", "large_fcn", "light_unet",
    "fcn8s:fc=64", "fcn_alexnet:fc=64",
]  # fmt: skip


def train(network: KerasModule, shape: tuple[int, ...]) -> None:
    """Go forward and back on the device, in training and in evaluation."""
    memory_format = channels_last(len(shape) - 1)
    network.place(META, memory_format)
    x = torch.empty(2, shape[-1], *shape[:-1], device=META).to(memory_format=memory_format)
    for is_training in (True, False):
        network.train(is_training)
        with cuda_rules(is_step=True):
            forward_logits(network, x, shape[:-1]).sum().backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("spec", NETWORKS)
def test_network_trains_on_another_device(spec: str) -> None:
    shape = (64, 64, 3)
    train(build_module(parse_network(network_json(spec, shape, 3), spec), shape), shape)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_trains_on_another_device(case: Case) -> None:
    train(case.build(), case.shape)


@pytest.mark.parametrize("shape", [(5, 4, 3), (4, 5, 4, 3)])
def test_only_kernels_are_stored_with_their_channels_last(shape: tuple[int, ...]) -> None:
    """A 3-D network has 4-D weights too, for which torch has no such format."""
    settings = {"LayerNormalization": {}, "PReLU": {}, "Rescaling": {"scale": 0.5}}
    for layer, values in settings.items():
        network = Case(layer, shape, values).build()
        network.place(torch.device("cpu"), channels_last(len(shape) - 1))
        kernel = network.get_parameter("before0.weight")
        assert kernel.is_contiguous(memory_format=channels_last(len(shape) - 1))


@pytest.mark.parametrize(
    "layer", ["BatchNormalization", "GroupNormalization", "InstanceNormalization"]
)
def test_normalization_that_only_shifts_has_no_weight_to_store(layer: str) -> None:
    settings = {"groups": 2} if layer == "GroupNormalization" else {}
    x, gradients = torch.randn(2, 4, 9, 8), []
    for scale in (True, False):
        torch.manual_seed(0)
        network = Case(layer, (9, 8, 4), {**settings, "scale": scale}).build()
        assert ("layer.weight" in network.state_dict()) == scale
        assert "layer.ones" not in network.state_dict()
        network.train()
        (network(x) * x).sum().backward()
        gradients.append(
            [network.get_parameter(f"{name}.bias").grad for name in ("before0", "layer")]
        )
    torch.testing.assert_close(*gradients)


class _Layers(nn.Module):
    """What a layer must not do: one of these for each rule."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.bias = nn.Parameter(torch.zeros(3, device=META))
        self.here = torch.zeros(3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        match self.fault:
            case "a tensor on the host":
                return x + self.here
            case "a bias without a weight":
                return nn.functional.batch_norm(x, None, None, None, self.bias, True)
            case "a constant":
                return x * torch.tensor([1.0, 2.0, 3.0], device=x.device).view(3, 1, 1)
            case "a copy":
                return x + self.here.to(x.device)
            case "a number read back":
                return x * x.sum().item()
            case "a mask":
                return x[x > 0]
            case _:
                return x[self.here.flatten().long()]


@pytest.mark.parametrize(
    "fault",
    ["a tensor on the host", "a bias without a weight", "a constant", "a copy",
     "a number read back", "a mask", "indices on the host"],
)  # fmt: skip
def test_rules_refuse(fault: str) -> None:
    layer, x = _Layers(fault), torch.empty(2, 3, 4, 4, device=META)
    with pytest.raises(RefusedError), cuda_rules(is_step=True):
        layer(x)
