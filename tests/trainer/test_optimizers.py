"""Every optimizer takes the step of its formula, and every scheduler the rate of its own."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from trainer import config as cfg
from trainer.errors import NetworkError
from trainer.optimizers import build_optimizer, build_scheduler

torch.set_num_threads(1)


def parse(section: dict) -> cfg.Optimizer:
    return TypeAdapter(cfg.Optimizer).validate_python(section)


def run(section: dict, num_steps: int = 5) -> list[torch.Tensor]:
    """Return the weights after each step down a fixed quartic bowl."""
    weight = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.double))
    optimizer = build_optimizer(parse(section), [weight])
    path = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        bowl(weight).backward()
        optimizer.step()
        path.append(weight.detach().clone())
    return path


def bowl(weight: torch.Tensor) -> torch.Tensor:
    return (weight.square() * torch.tensor([1.0, 3.0]) + weight.pow(4) / 10).sum()


def gradient(weight: torch.Tensor) -> torch.Tensor:
    return 2 * weight * torch.tensor([1.0, 3.0]) + 4 * weight**3 / 10


def by_formula(section: dict, num_steps: int = 5) -> list[torch.Tensor]:
    """The papers' updates, written out one by one."""
    o = {**parse(section).model_dump()}
    w = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.double)
    m, v, v_max, mean = (torch.zeros_like(w) for _ in range(4))
    lr, decay, path = o["learning_rate"], o["weight_decay"], []
    for t in range(1, num_steps + 1):
        g = gradient(w)
        if o["type"] != "AdamW":
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
            w = w - lr * m / (1 - o["beta1"] ** t) / second
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
    ],
    ids=str,
)
def test_step_equals_the_formula(section):
    for ours, expected in zip(run(section), by_formula(section), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", list(cfg.OPTIMIZERS))
def test_float32_parameters_of_a_network_take_a_step(kind):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    network = network.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(parse({"type": kind}), network.parameters())
    before = [p.detach().clone() for p in network.parameters()]
    network(torch.randn(2, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    assert all((p != q).any() for p, q in zip(network.parameters(), before, strict=True))


@pytest.mark.parametrize("kind", list(cfg.OPTIMIZERS))
def test_state_can_be_saved_and_loaded(kind):
    section = {"type": kind}
    weight = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.double))
    first = build_optimizer(parse(section), [weight])
    for step in range(5):
        if step == 2:
            second = build_optimizer(parse(section), [weight])
            second.load_state_dict(first.state_dict())
            first = second
        first.zero_grad()
        bowl(weight).backward()
        first.step()
    torch.testing.assert_close(weight.detach(), run(section)[-1], rtol=0, atol=0)


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
    scheduler = build_scheduler(config.lr_scheduler, optimizer)
    assert scheduler is not None
    seen = []
    for _ in range(num_epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
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


def test_no_scheduler():
    optimizer = build_optimizer(parse({"type": "SGD"}), [nn.Parameter(torch.ones(1))])
    assert build_scheduler(None, optimizer) is None
