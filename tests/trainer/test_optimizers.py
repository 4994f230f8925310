"""Every optimizer takes the step of its formula, and every scheduler the rate of its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from trainer import config as cfg
from trainer.errors import NetworkError
from trainer.optimizers import build_optimizer, load_state, needs_closure
from trainer.optimizers.schedule import LearningRate

torch.set_num_threads(1)

START = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.double)


def parse(section: dict) -> cfg.Optimizer:
    return TypeAdapter(cfg.Optimizer).validate_python(section)


def run(section: dict, num_steps: int = 5) -> list[torch.Tensor]:
    """Return the weights after each step down a fixed quartic bowl."""
    weight = nn.Parameter(START.clone())
    optimizer = build_optimizer(parse(section), [weight])
    path = []
    for _ in range(num_steps):
        take_step(optimizer, lambda: bowl(weight))
        path.append(weight.detach().clone())
    return path


def take_step(optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor]) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    if needs_closure(optimizer):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


def bowl(weight: torch.Tensor) -> torch.Tensor:
    return (weight.square() * torch.tensor([1.0, 3.0]) + weight.pow(4) / 10).sum()


def gradient(weight: torch.Tensor) -> torch.Tensor:
    return 2 * weight * torch.tensor([1.0, 3.0]) + 4 * weight**3 / 10


def by_formula(section: dict, num_steps: int = 5) -> list[torch.Tensor]:
    """The papers' updates, written out one by one."""
    o = {**parse(section).model_dump()}
    w = START.clone()
    m, v, v_max, mean = (torch.zeros_like(w) for _ in range(4))
    lr, decay, path = o["learning_rate"], o["weight_decay"], []
    for t in range(1, num_steps + 1):
        g = gradient(w)
        if o["type"] == "LARS":
            g_norm, w_norm = g.norm(), w.norm()
            u = lr * o["eta"] * w_norm / (g_norm + decay * w_norm) * (g + decay * w)
            m = u if t == 1 else o["momentum"] * m + (1 - o["dampening"]) * u
            w = w - (u + o["momentum"] * m if o["nesterov"] else m)
            path.append(w)
            continue
        if o["type"] not in ("AdamW", "LAMB"):
            g = g + decay * w
        if o["type"] == "SGD":
            m = g if t == 1 else o["momentum"] * m + (1 - o["dampening"]) * g
            step = g + o["momentum"] * m if o["nesterov"] else m if o["momentum"] else g
            w = w - lr * step
        elif o["type"] == "Adagrad":
            v = v + g**2
            w = w - lr / (1 + (t - 1) * o["lr_decay"]) * g / (v.sqrt() + 1e-10)
        elif o["type"] == "RMSprop":
            v = o["alpha"] * v + (1 - o["alpha"]) * g**2
            mean = o["alpha"] * mean + (1 - o["alpha"]) * g if o["centered"] else mean
            m = o["momentum"] * m + g / ((v - mean**2).sqrt() + o["eps"])
            w = w - lr * m
        else:
            if o["type"] == "AdamW":
                w = w - lr * decay * w
            m = o["beta1"] * m + (1 - o["beta1"]) * g
            v = o["beta2"] * v + (1 - o["beta2"]) * g**2
            v_max = torch.maximum(v, v_max)
            second = v_max if o["amsgrad"] else v
            second = (second / (1 - o["beta2"] ** t)).sqrt() + o["eps"]
            r = m / (1 - o["beta1"] ** t) / second
            if o["type"] == "LAMB":
                r = r + decay * w
                r = r * w.norm() / r.norm()
            w = w - lr * r
        path.append(w)
    return path


@pytest.mark.parametrize(
    "section",
    [
        {"type": "SGD"},
        {"type": "sgd", "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.02},
        {"type": "SGD", "momentum": 0.9, "nesterov": True},
        {"type": "Adagrad", "lr_decay": 0.3, "weight_decay": 0.02},
        {"type": "RMSprop", "weight_decay": 0.02},
        {"type": "RMSprop", "momentum": 0.8, "alpha": 0.9, "centered": True, "eps": 1e-3},
        {"type": "Adam", "weight_decay": 0.02},
        {"type": "Adam", "beta1": 0.5, "beta2": 0.6, "eps": 1e-2, "amsgrad": True},
        {"type": "AdamW", "weight_decay": 0.3, "learning_rate": 0.1},
        {"type": "LARS", "learning_rate": 5.0},
        {"type": "LARS", "learning_rate": 5.0, "momentum": 0.9, "weight_decay": 0.1},
        {"type": "LARS", "momentum": 0.9, "nesterov": True, "eta": 0.1},
        {"type": "LARS", "momentum": 0.5, "dampening": 0.2, "eta": 0.1},
        {"type": "LAMB"},
        {"type": "LAMB", "weight_decay": 0.2, "beta1": 0.5, "beta2": 0.6, "eps": 1e-3},
        {"type": "LAMB", "amsgrad": True, "beta2": 0.3, "learning_rate": 0.3},
    ],
    ids=str,
)
def test_step_equals_the_formula(section):
    for ours, expected in zip(run(section), by_formula(section), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", list(cfg.OPTIMIZERS))
def test_float32_parameters_of_a_network_take_a_step(kind):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2))
    network = network.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(parse({"type": kind}), network.parameters())
    before = [p.detach().clone() for p in network.parameters()]
    images = torch.randn(2, 1, 8, 8)
    take_step(optimizer, lambda: (network(images) - 1).square().mean())
    assert all((p != q).any() for p, q in zip(network.parameters(), before, strict=True))


@pytest.mark.parametrize("kind", list(cfg.OPTIMIZERS))
def test_state_can_be_saved_and_loaded(kind):
    section = {"type": kind}
    weight = nn.Parameter(START.clone())
    first = build_optimizer(parse(section), [weight])
    for step in range(5):
        if step == 2:
            second = build_optimizer(parse(section), [weight])
            second.load_state_dict(first.state_dict())
            first = second
        take_step(first, lambda: bowl(weight))
    torch.testing.assert_close(weight.detach(), run(section)[-1], rtol=0, atol=0)


@pytest.mark.parametrize("section", [{"type": "LARS"}, {"type": "LAMB"}], ids=str)
def test_layerwise_steps_scale_with_the_weights_of_each_layer(section):
    """The point of both papers: w -> 10 w gives ten times the step, whatever the gradient."""
    small = nn.Parameter(torch.ones(3, 3))
    large, scaled = nn.Parameter(10 * torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    optimizer = build_optimizer(parse(section), [small, large, scaled])
    small.grad = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    large.grad, scaled.grad = small.grad.clone(), 100 * small.grad
    optimizer.step()
    step = 1 - small.detach()
    torch.testing.assert_close(10 - large.detach(), 10 * step, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(1 - scaled.detach(), step, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["LARS", "LAMB"])
def test_layerwise_weights_leave_zero_and_keep_their_gradient(kind):
    bias, idle = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    optimizer = build_optimizer(parse({"type": kind}), [bias, idle])
    bias.grad, idle.grad = torch.ones(2), torch.zeros(2)
    optimizer.step()
    torch.testing.assert_close(bias.detach(), torch.full((2,), -0.01))
    assert (idle == 1).all()
    assert (bias.grad == 1).all()  # its norm is logged


def test_lars_equals_another_library():
    library = pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is not installed")
    weight = nn.Parameter(START.clone())
    options = {"momentum": 0.9, "weight_decay": 0.1}
    theirs = library.LARS([weight], lr=3.0, trust_coefficient=1e-3, **options)
    for ours in run({"type": "LARS", "learning_rate": 3.0, **options}):
        take_step(theirs, lambda: bowl(weight))
        torch.testing.assert_close(ours, weight.detach(), rtol=1e-10, atol=1e-12)


def test_lamb_is_torchs_adamw_with_a_rate_per_layer():
    weight = nn.Parameter(START.clone())
    adam = torch.optim.AdamW([weight], lr=1.0, weight_decay=0.1)
    for ours in run({"type": "LAMB", "weight_decay": 0.1}):
        start = weight.detach().clone()
        take_step(adam, lambda: bowl(weight))
        direction = start - weight.detach()  # of a step of rate 1
        weight.data.copy_(start - 0.01 * start.norm() / direction.norm() * direction)
        torch.testing.assert_close(ours, weight.detach(), rtol=1e-10, atol=1e-12)


def test_hessian_finds_the_minimum_of_rosenbrock_within_its_limits():
    point = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.double))
    calls = []

    def rosenbrock() -> torch.Tensor:
        calls.append(1)
        return 100 * (point[1] - point[0] ** 2) ** 2 + (1 - point[0]) ** 2

    section = {"type": "Hessian", "max_iterations": 2000, "max_func_eval": 4000}
    take_step(build_optimizer(parse(section), [point]), rosenbrock)
    torch.testing.assert_close(point.detach(), torch.ones(2).double(), rtol=0, atol=1e-5)
    assert len(calls) < 100
    group = build_optimizer(parse({"type": "hessian"}), [point]).param_groups[0]
    assert (group["tolerance_grad"], group["tolerance_change"]) == (1e-8, 1e-8)


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({}, (20, 40)),
        ({"max_iterations": 10}, (10, 4000)),  # as the inpainting tutorial has it
        ({"max_func_eval": 100}, (2000, 100)),
        ({"max_iterations": 2000, "max_func_eval": 4000}, (2000, 4000)),
    ],
)
def test_hessian_is_bounded_where_no_limit_is_given(given: dict, limits: tuple[int, int]):
    weight = nn.Parameter(torch.ones(2))
    group = build_optimizer(parse({"type": "Hessian"} | given), [weight]).param_groups[0]
    assert (group["max_iter"], group["max_eval"]) == limits


def test_hessian_alone_costs_some_tens_of_evaluations_a_batch():
    """Of a function whose minimum is too far away to be found in these."""
    weight, calls = nn.Parameter(torch.linspace(-3, 3, 60)), []

    def loss() -> torch.Tensor:
        calls.append(1)
        ahead, here = weight[1:], weight[:-1]
        return (100 * (ahead - here**2) ** 2 + (1 - here) ** 2).sum()

    take_step(build_optimizer(parse({"type": "Hessian"}), [weight]), loss)
    assert 20 <= len(calls) <= 40 + 25


def test_hessian_agrees_with_scipy():
    scipy = pytest.importorskip("scipy.optimize")
    # as a driver would write it, with room to arrive
    section = {"type": "Hessian", "learning_rate": 0.01, "max_iterations": 2000}
    weight = nn.Parameter(START.clone())

    def tilted(w: torch.Tensor) -> torch.Tensor:
        return bowl(w) + (w * torch.tensor([2.0, -7.0])).sum()

    take_step(build_optimizer(parse(section), [weight]), lambda: tilted(weight))
    found = scipy.minimize(
        lambda flat: tilted(torch.from_numpy(flat).view(2, 2)).item(),
        weight.detach().numpy().ravel() * 0,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    assert tilted(weight).item() == pytest.approx(found.fun, abs=1e-7)
    torch.testing.assert_close(
        weight.detach().ravel(), torch.from_numpy(found.x), rtol=0, atol=1e-3
    )


def test_hessian_stops_at_its_limit_of_evaluations():
    section = {"type": "Hessian", "max_iterations": 3, "max_func_eval": 6}
    weight, calls = nn.Parameter(torch.full((4,), 9.0)), []

    def loss() -> torch.Tensor:
        calls.append(1)
        return weight.square().square().sum()

    take_step(build_optimizer(parse(section), [weight]), loss)
    assert len(calls) <= 6 + 25  # torch ends the line search that it is in, of 25 at most


def test_frozen_parameters_stay():
    frozen, free = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    frozen.requires_grad_(False)
    optimizer = build_optimizer(parse({"type": "SGD"}), [frozen, free])
    assert optimizer.param_groups[0]["params"] == [free]
    with pytest.raises(NetworkError, match="no trainable parameter"):
        build_optimizer(parse({"type": "SGD"}), [frozen])


def rates(section: dict, num_epochs: int = 6) -> list[float]:
    """Return the learning rate of each epoch, from 1.0."""
    config = parse({"type": "SGD", "learning_rate": 1.0, "lr_scheduler": section})
    optimizer = build_optimizer(config, [nn.Parameter(torch.ones(1))])
    rate = LearningRate(config, optimizer)
    seen = []
    for _ in range(num_epochs):
        assert optimizer.param_groups[0]["lr"] == rate.value
        seen.append(rate.value)
        rate.advance()
    return seen


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"type": "Step", "gamma": 0.5, "step_size": 2}, [1, 1, 0.5, 0.5, 0.25, 0.25]),
        (
            {"type": "MultiStep", "gamma": 0.1, "milestones": [1, 4]},
            [1, 0.1, 0.1, 0.1, 0.01, 0.01],
        ),
        ({"type": "exponential", "gamma": 0.95}, [0.95**e for e in range(6)]),
        (
            {"type": "Warmup", "num_epochs": 4, "start_factor": 0.2},
            [0.2, 0.4, 0.6, 0.8, 1, 1],
        ),
    ],
    ids=str,
)
def test_scheduler_sets_the_rate_of_each_epoch(section, expected):
    assert all(math.isclose(a, b) for a, b in zip(rates(section), expected, strict=True))


def test_without_a_scheduler_the_rate_stays():
    config = parse({"type": "SGD", "learning_rate": 0.3})
    optimizer = build_optimizer(config, [nn.Parameter(torch.ones(1))])
    rate = LearningRate(config, optimizer)
    rate.advance()
    assert (rate.value, optimizer.param_groups[0]["lr"]) == (0.3, 0.3)
    assert rate.state_dict() is None


def test_rate_on_the_device_is_one_tensor_whatever_is_loaded():
    section = {"type": "Adam", "lr_scheduler": {"type": "Exponential", "gamma": 0.5}}
    config = parse({**section, "learning_rate": 0.4})
    optimizer = build_optimizer(config, [nn.Parameter(torch.ones(1))])
    rate = LearningRate(config, optimizer, tensor=True)
    tensor = optimizer.param_groups[0]["lr"]
    rate.advance()
    state, schedule = optimizer.state_dict(), rate.state_dict()
    rate.advance()
    assert (rate.value, tensor.item()) == (0.1, pytest.approx(0.1))
    load_state(optimizer, state)
    rate.load_state_dict(schedule)
    assert optimizer.param_groups[0]["lr"] is tensor
    assert (rate.value, tensor.item()) == (0.2, pytest.approx(0.2))
