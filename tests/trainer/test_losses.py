"""How every loss behaves: gradients, extreme logits, ignored pixels, precision, mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import LOSSES, Loss
from trainer.errors import ConfigError
from trainer.losses import build_loss

torch.set_num_threads(1)

NAMES = LOSSES
CASES = [(1, "sigmoid"), (2, "softmax"), (4, "softmax"), (4, "sigmoid"), (3, "log_softmax")]


def sample(channels: int, seed: int = 0, size: int = 7, scale: float = 3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(3, channels, size, size + 1, generator=generator)
    ids = torch.randint(0, max(2, channels), (3, size, size + 1), generator=generator)
    return logits.double(), ids


def one_hot(ids: torch.Tensor, channels: int) -> np.ndarray:
    if channels == 1:
        return (ids.numpy() == 1)[:, None].astype(float)
    return np.stack([ids.numpy() == c for c in range(channels)], 1).astype(float)


@pytest.mark.parametrize(("channels", "activation"), CASES)
@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_the_value(name, channels, activation):
    logits, ids = sample(channels, size=3, scale=1.0)
    ids[0, 0, :2] = 255
    weights = tuple(np.linspace(0.5, 2.0, max(2, channels)).tolist())
    config = Loss(function=name, weight=weights, ignore_index=255)
    loss = build_loss(config, activation, channels)
    assert torch.autograd.gradcheck(lambda z: loss(z, ids), logits.requires_grad_())


@pytest.mark.parametrize(("channels", "activation"), CASES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [100.0, 1e4])
def test_extreme_logits_give_finite_loss_and_gradient(name, channels, activation, size):
    logits, ids = sample(channels)
    logits = (logits.sign() * size).float().requires_grad_()
    loss = build_loss(Loss(function=name), activation, channels)(logits, ids)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", ["NLL", "BCE", "Focal"])
@pytest.mark.parametrize(("channels", "activation"), [(1, "sigmoid"), (3, "softmax")])
def test_saturated_and_wrong_pixels_still_have_a_gradient(name, channels, activation):
    """Computed on the activated output, p would be 0 or 1 and the gradient 0 or NaN."""
    _, ids = sample(channels)
    wrong = torch.from_numpy(100.0 - 200.0 * one_hot(ids, channels)).float().requires_grad_()
    build_loss(Loss(function=name), activation, channels)(wrong, ids).backward()
    assert (wrong.grad.abs().amax(1) > 0).all()


@pytest.mark.parametrize(("channels", "activation"), CASES)
@pytest.mark.parametrize("name", NAMES)
def test_loss_is_float32_under_autocast(name, channels, activation):
    logits, ids = sample(channels)
    loss = build_loss(Loss(function=name), activation, channels)
    half = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, ids)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(half.double(), ids).item(), rel=1e-5)


@pytest.mark.parametrize(("channels", "activation"), CASES)
@pytest.mark.parametrize("name", NAMES)
def test_ignored_pixels_have_no_effect(name, channels, activation):
    logits, ids = sample(channels)
    ids[:, :2] = 255
    config = Loss(function=name, ignore_index=255)
    loss = build_loss(config, activation, channels)
    logits.requires_grad_()
    value = loss(logits, ids)
    value.backward()
    assert (logits.grad[:, :, :2] == 0).all()
    kept = build_loss(Loss(function=name), activation, channels)(logits[:, :, 2:], ids[:, 2:])
    assert value.item() == pytest.approx(kept.item(), rel=1e-12)


@pytest.mark.parametrize(("channels", "activation"), CASES)
@pytest.mark.parametrize("name", NAMES)
def test_batch_with_every_pixel_ignored_gives_no_nan(name, channels, activation):
    logits, ids = sample(channels)
    config = Loss(function=name, ignore_index=255)
    logits.requires_grad_()
    value = build_loss(config, activation, channels)(logits, torch.full_like(ids, 255))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert (logits.grad == 0).all()


def test_nll_of_one_channel_is_bce():
    logits, ids = sample(1)
    values = [build_loss(Loss(function=f), "sigmoid", 1)(logits, ids) for f in ("NLL", "BCE")]
    assert values[0] == values[1]


def test_mse_of_a_linear_output_takes_continuous_targets():
    logits, _ = sample(2)
    target = torch.rand_like(logits)
    ours = build_loss(Loss(function="MSE"), "linear", 2)(logits, target)
    torch.testing.assert_close(ours, F.mse_loss(logits, target))


@pytest.mark.parametrize("name", ["BCE", "MSE", "Dice", "Jaccard"])
def test_continuous_target_of_class_ids_gives_the_same_loss(name):
    logits, ids = sample(3)
    loss = build_loss(Loss(function=name), "softmax", 3)
    soft = torch.from_numpy(one_hot(ids, 3))
    torch.testing.assert_close(loss(logits, soft), loss(logits, ids))


def test_dice_by_hand():
    logits = torch.tensor([[[[100.0, 100.0, -100.0, -100.0]]]])
    ids = torch.tensor([[[1, 0, 1, 0]]])
    # 2 predicted, 2 true, 1 both: 2/4
    loss = build_loss(Loss(function="Dice"), "sigmoid", 1)
    assert loss(logits, ids).item() == pytest.approx(0.5, abs=1e-6)
    empty = torch.zeros_like(ids)
    assert loss(-logits.abs(), empty).item() == pytest.approx(0, abs=1e-6)
    assert loss(logits, empty).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["Dice", "Jaccard", "Lovasz"])
def test_ignored_class_is_left_out_of_the_average(name):
    """It has no pixels left, so its overlap would be 0 whatever the network does."""
    logits, ids = sample(3)
    logits[:, 0] = -30  # softmax over the other two
    config = Loss(function=name, ignore_index=0)
    ours = build_loss(config, "softmax", 3)(logits, ids)
    without = build_loss(Loss(function=name, ignore_index=255), "softmax", 2)
    expected = without(logits[:, 1:], torch.where(ids == 0, 255, ids - 1))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", NAMES)
def test_volumes_are_accepted(name):
    logits = torch.randn(2, 3, 4, 5, 6, dtype=torch.double)
    ids = torch.randint(0, 3, (2, 4, 5, 6))
    config = Loss(function=name, weight=(1.0, 2.0, 3.0), ignore_index=7)
    loss = build_loss(config, "softmax", 3)
    flat = loss(logits.flatten(3), ids.flatten(2))
    torch.testing.assert_close(loss(logits, ids), flat)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**31), st.sampled_from(NAMES), st.sampled_from([c for c in CASES if c[0] > 1])
)
def test_pixel_order_does_not_matter(seed, name, case):
    channels, activation = case
    logits, ids = sample(channels, seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(ids[0].numel()))
    loss = build_loss(Loss(function=name), activation, channels)
    shuffled = loss(
        logits.flatten(2)[:, :, order].view_as(logits), ids.flatten(1)[:, order].view_as(ids)
    )
    torch.testing.assert_close(shuffled, loss(logits, ids))


@pytest.mark.parametrize(
    ("function", "activation", "channels", "weight", "match"),
    [
        ("NLL", "softmax", 3, (1.0, 2.0), "loss.weight: expected 3 numbers"),
        ("BCE", "sigmoid", 1, (1.0, 2.0, 3.0), "loss.weight: expected 2 numbers"),
        ("BCE", "sigmoid", 1, (0.0, 0.0), "at least one weight above 0"),
        ("BCE", "softmax", 1, None, "loss.source: softmax over a single channel"),
        ("Dice", "linear", 2, None, "loss.function: Dice needs probabilities"),
    ],
)
def test_what_does_not_go_together_is_refused(function, activation, channels, weight, match):
    with pytest.raises(ConfigError, match=match):
        build_loss(Loss(function=function, weight=weight), activation, channels)


@pytest.mark.parametrize("name", ["NLL", "Focal", "Lovasz"])
def test_continuous_target_is_refused_where_only_classes_make_sense(name):
    logits, _ = sample(3)
    with pytest.raises(ConfigError, match="need masks of classes"):
        build_loss(Loss(function=name), "softmax", 3)(logits, logits)


def test_target_of_another_shape_is_refused():
    logits, ids = sample(3)
    loss = build_loss(Loss(function="MSE"), "softmax", 3)
    with pytest.raises(ValueError, match=r"expected class ids of shape"):
        loss(logits, ids[:, :-1])
    with pytest.raises(ValueError, match=r"expected a target of shape"):
        loss(logits, logits[:, :1])
