"""Layers and networks on a GPU, in float32 and bfloat16, against float64 on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from layer_cases import CASES, Case
from torch import Tensor

from trainer.compute.device import exact_float32
from trainer.loading.augment import channels_last
from trainer.networks import network_json, parse_network
from trainer.networks.module import KerasModule, build_module
from trainer.networks.torch_layers.elementwise import TorchDropout

# Norm of the difference by the norm of the value: of outputs, of gradients. bfloat16 has 8 bits,
# 0.4 %; a maximum may move to a neighbour, and its gradient with it. On a CPU the layers' largest
# are 2e-5, 6e-5; 0.012, 0.16.
TOLERANCES = {torch.float32: (1e-4, 5e-4), torch.bfloat16: (0.03, 0.3)}
# Of two values of a pool that a convolution's rounding brings together, the gradient goes to
# either: 6 % of the pools (one H200, of 320) are a distance of 0.35.
POOLED = {torch.bfloat16: (0.03, 0.5)}
# A deep network's rounding adds up, and batch normalization divides by small deviations: on a CPU
# RESUNET's gradients differ by 0.04 in float32, and in bfloat16 by as much as they are long.
NETWORK_TOLERANCES = {torch.float32: (1e-3, 0.15), torch.bfloat16: (0.4, math.inf)}
NETWORKS = [
    "unet:width=4,depth=2", "efficientunet", "resunet", "pets", "fcn", "large_fcn", "light_unet",
    "fcn8s:fc=64", "fcn_alexnet:fc=64",
]  # fmt: skip
PRECISIONS = pytest.mark.parametrize(
    "precision", list(TOLERANCES), ids=lambda dtype: str(dtype).removeprefix("torch.")
)


def distance(value: Tensor, expected: Tensor) -> float:
    norm = expected.norm().item()
    return (value.cpu().double() - expected).norm().item() / (norm or 1.0)


def compute(
    build: Callable[[], KerasModule],
    shape: tuple[int, ...],
    device: torch.device,
    precision: torch.dtype,
    *,
    is_training: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return output, all gradients, and the buffers after a step; the same weights each time."""
    torch.manual_seed(0)
    network = build()
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.1 * noise if parameter.ndim == 1 else 0
    inputs = torch.randn(4, shape[-1], *shape[:-1], generator=generator)
    network.train(is_training)
    for module in network.modules():
        if isinstance(module, TorchDropout):
            module.eval()  # other devices drop others
    is_reference = precision == torch.float64
    if is_reference:
        network, inputs = network.double(), inputs.double()
    memory_format = channels_last(len(shape) - 1)
    network.place(device, memory_format)
    inputs = inputs.to(device).contiguous(memory_format=memory_format).requires_grad_()
    with (
        exact_float32(),
        network.running_variances().corrected() if is_training else exact_float32(),
    ):
        with torch.autocast(device.type, precision, enabled=precision == torch.bfloat16):
            logits = network.logits(inputs)
        values = logits.double() if is_reference else logits.float()
        weights = torch.randn(values.shape, generator=generator).to(values)
        (values * weights).sum().backward()
    found = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    assert inputs.grad is not None
    gradients = torch.cat([inputs.grad.flatten(), *found]).cpu()
    return values.detach(), gradients, [b.cpu() for b in network.buffers()]


def compare(
    build: Callable[[], KerasModule],
    shape: tuple[int, ...],
    device: torch.device,
    precision: torch.dtype,
    tolerances: tuple[float, float],
    *,
    is_training: bool,
) -> None:
    ours = compute(build, shape, device, precision, is_training=is_training)
    cpu = torch.device("cpu")
    expected = compute(build, shape, cpu, torch.float64, is_training=is_training)
    assert ours[0].device.type == device.type
    assert distance(ours[0], expected[0]) <= tolerances[0]
    assert distance(ours[1], expected[1]) <= tolerances[1]
    assert 0.5 < ours[1].double().norm() / expected[1].norm().clamp_min(1e-30) < 2
    for buffer, one in zip(ours[2], expected[2], strict=True):  # running means and variances
        assert distance(buffer, one.double()) <= tolerances[0]


@PRECISIONS
@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_equals_the_cpus(case: Case, precision: torch.dtype, device: torch.device) -> None:
    is_unbounded = "Divide" in case.layer or (
        case.settings.get("operation") == "divide" and "left" in case.settings
    )
    if is_unbounded and precision == torch.bfloat16:
        pytest.skip("a quotient near 0 has no digit in bfloat16")
    tolerances = TOLERANCES[precision]
    if case.layer.startswith("MaxPooling"):
        tolerances = POOLED.get(precision, tolerances)
    for is_training in (True, False):
        compare(
            case.build, case.shape, device, precision, tolerances, is_training=is_training
        )  # fmt: skip


@PRECISIONS
@pytest.mark.parametrize("spec", NETWORKS)
def test_network_equals_the_cpus(spec: str, precision: torch.dtype, device: torch.device) -> None:
    # At 64, most of fcn8s's 7x7 kernel meets padding only, and its gradient there is what oneDNN
    # found in memory (torch 2.13, bfloat16 on a CPU).
    shape = (128, 128, 3) if spec.startswith("fcn8s") else (64, 64, 3)

    def build() -> KerasModule:
        return build_module(parse_network(network_json(spec, shape, 3), spec), shape)

    for is_training in (True, False):
        compare(
            build, shape, device, precision, NETWORK_TOLERANCES[precision],
            is_training=is_training,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["Dropout", "SpatialDropout2D", "StochasticDepth"])
def test_dropout_drops_its_share(kind: str, device: torch.device) -> None:
    rate = {"drop_path_rate" if kind == "StochasticDepth" else "rate": 0.25}
    network = Case(kind, (8, 8, 64), rate).build()
    network.place(device, channels_last(2))
    layer = network.get_submodule("layer").train()
    y = layer(torch.ones(512, 64, 8, 8, device=device))
    assert abs(y.mean().item() - 1) < 0.1
    assert abs((y == 0).float().mean().item() - 0.25) < 0.08
