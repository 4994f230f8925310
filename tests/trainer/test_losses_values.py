"""Each loss against its published formula in NumPy (float64), and against other libraries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainer.config import LOSSES, Loss
from trainer.losses import build_loss, inverse_frequency_weights, resolve_weights

torch.set_num_threads(1)

EPS = 1e-7
CASES = [(1, "sigmoid"), (2, "softmax"), (4, "softmax"), (4, "sigmoid"), (3, "log_softmax")]


def sample(channels: int, seed: int = 0, num_images: int = 3):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num_images, channels, 7, 8, generator=generator)
    ids = torch.randint(0, max(2, channels), (num_images, 7, 8), generator=generator)
    return logits.double(), ids


def activated(logits: torch.Tensor, activation: str) -> np.ndarray:
    z = logits.detach().numpy()
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-z))
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def one_hot(ids: torch.Tensor, channels: int) -> np.ndarray:
    if channels == 1:
        return (ids.numpy() == 1)[:, None].astype(float)
    return np.stack([ids.numpy() == c for c in range(channels)], 1).astype(float)


# --- formulas: probabilities p, one-hot t (N,C,H,W), class weights, valid pixels (N,1,H,W) ------


def numpy_bce(p, t, weights, valid, activation):
    values = -(t * np.log(p) + (1 - t) * np.log1p(-p))
    return np.average(values, weights=element_weights(t, weights, valid))


def numpy_mse(p, t, weights, valid, activation):
    return np.average((p - t) ** 2, weights=element_weights(t, weights, valid))


def element_weights(t, weights, valid):
    if t.shape[1] == 1:
        return np.where(t == 1, weights[-1], weights[0]) * valid
    return np.broadcast_to(weights.reshape(1, -1, 1, 1), t.shape) * valid


def pixel_weights(t, weights, valid):
    return (t * weights.reshape(1, -1, 1, 1) * valid).sum(1)


def numpy_nll(p, t, weights, valid, activation):
    if p.shape[1] == 1:
        return numpy_bce(p, t, weights, valid, activation)
    picked = np.where(valid[:, 0], (p * t).sum(1), 1)
    return np.average(-np.log(picked), weights=pixel_weights(t, weights, valid))


def numpy_focal(p, t, weights, valid, activation):
    """Lin et al. 2017, equation 4, gamma 2."""
    if activation == "sigmoid":
        p_t, weight = np.where(t == 1, p, 1 - p), element_weights(t, weights, valid)
    else:
        p_t = np.where(valid[:, 0], (p * t).sum(1), 1)
        weight = pixel_weights(t, weights, valid)
    return np.average(-((1 - p_t) ** 2) * np.log(p_t), weights=weight)


def numpy_dice(p, t, weights, valid, activation):
    axes = (0, 2, 3)
    both, size = (p * t * valid).sum(axes), ((p + t) * valid).sum(axes)
    return 1 - over_classes((2 * both + EPS) / (size + EPS), weights)


def numpy_jaccard(p, t, weights, valid, activation):
    axes = (0, 2, 3)
    both, size = (p * t * valid).sum(axes), ((p + t) * valid).sum(axes)
    return 1 - over_classes((both + EPS) / (size - both + EPS), weights)


def over_classes(values, weights):
    return values[0] if values.size == 1 else np.average(values, weights=weights)


def lovasz_gradient(truth_sorted):
    """Algorithm 1 of Berman et al. 2018, as its authors publish it."""
    total = truth_sorted.sum()
    intersection = total - np.cumsum(truth_sorted)
    union = total + np.cumsum(1 - truth_sorted)
    steps = 1 - intersection / union
    steps[1:] = steps[1:] - steps[:-1]
    return steps


def lovasz_of(errors, truth):
    order = np.argsort(-errors, kind="stable")
    return np.dot(np.maximum(errors[order], 0), lovasz_gradient(truth[order]))


def numpy_lovasz(p, t, weights, valid, activation):
    channels = range(p.shape[1])
    valid = np.broadcast_to(valid, p.shape)
    if activation == "sigmoid":
        errors = 1 - np.log(p / (1 - p)) * (2 * t - 1)
        per_class = [
            np.mean(
                [
                    lovasz_of(e[c][v[c]], m[c][v[c]])
                    for e, m, v in zip(errors, t, valid, strict=True)
                ]
            )
            for c in channels
        ]
        return over_classes(np.array(per_class), weights)
    present = [c for c in channels if t[:, c][valid[:, c]].any()]
    values = [lovasz_of(np.abs(t - p)[:, c][valid[:, c]], t[:, c][valid[:, c]]) for c in present]
    return np.average(values, weights=weights[present])


FORMULAS: dict[str, Callable[..., float]] = {
    "NLL": numpy_nll,
    "BCE": numpy_bce,
    "MSE": numpy_mse,
    "Dice": numpy_dice,
    "Jaccard": numpy_jaccard,
    "Focal": numpy_focal,
    "Lovasz": numpy_lovasz,
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore_index", [None, 255])
@pytest.mark.parametrize(("channels", "activation"), CASES)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_equals_its_formula(name, channels, activation, ignore_index, weighted):
    logits, ids = sample(channels)
    number = max(2, channels)
    weights = np.linspace(0.5, 2.0, number) if weighted else np.ones(number)
    if ignore_index is not None:
        ids[:, ::3, ::2] = ignore_index
    valid = (ids.numpy() != ignore_index)[:, None]
    config = Loss(
        function=name,
        ignore_index=ignore_index,
        weight=tuple(weights.tolist()) if weighted else None,
    )
    ours = build_loss(config, activation, channels)(logits, ids).item()
    p, t = activated(logits, activation), one_hot(ids, channels)
    assert ours == pytest.approx(FORMULAS[name](p, t, weights, valid, activation), rel=1e-12)


def test_lovasz_leaves_out_classes_that_do_not_occur():
    logits, ids = sample(4)
    ids[ids == 2] = 1
    ours = build_loss(Loss(function="Lovasz"), "softmax", 4)(logits, ids).item()
    everywhere = np.ones((3, 1, 7, 8), bool)
    p, t = activated(logits, "softmax"), one_hot(ids, 4)
    expected = numpy_lovasz(p, t, np.ones(4), everywhere, "softmax")
    assert ours == pytest.approx(expected, rel=1e-12)


def test_lovasz_keeps_its_digits_on_a_large_image():
    """In float32 the difference of two Jaccards would be mostly rounding."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 1024, 2048, generator=generator)
    ids = (torch.rand(1, 1024, 2048, generator=generator) < 0.01).long()
    loss = build_loss(Loss(function="Lovasz"), "sigmoid", 1)
    assert loss(logits, ids).item() == pytest.approx(loss(logits.double(), ids).item(), rel=1e-6)


def test_nll_equals_torch_cross_entropy():
    logits, ids = sample(4)
    ids[0] = 3
    weight = (1.0, 0.2, 0.0, 3.0)
    config = Loss(function="NLL", weight=weight, ignore_index=2)
    ours = build_loss(config, "softmax", 4)(logits, ids)
    theirs = F.cross_entropy(logits, ids, torch.tensor(weight).double(), ignore_index=2)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("channels", "activation"), CASES[:-1])
def test_focal_with_gamma_0_is_the_cross_entropy(channels, activation):
    logits, ids = sample(channels)
    plain = "BCE" if activation == "sigmoid" else "NLL"
    focal = build_loss(Loss(function="Focal", gamma=0.0), activation, channels)
    expected = build_loss(Loss(function=plain), activation, channels)
    torch.testing.assert_close(focal(logits, ids), expected(logits, ids))


# --- other libraries ----------------------------------------------------------------------------


def assert_same_value_and_gradient(ours, theirs, logits, *, rtol=1e-7):
    gradients = []
    for value in (ours, theirs):
        (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
        gradients.append(gradient)
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=rtol, atol=1e-9)
    torch.testing.assert_close(*gradients, rtol=rtol, atol=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("channels", "activation"), CASES[:-1])
@pytest.mark.parametrize("name", ["Dice", "Jaccard", "Focal"])
def test_loss_equals_monai(name, channels, activation):
    monai = pytest.importorskip("monai.losses", reason="MONAI is not installed")
    logits, ids = sample(channels)
    logits.requires_grad_()
    ours = build_loss(Loss(function=name), activation, channels)(logits, ids)
    target = torch.from_numpy(one_hot(ids, channels))
    if name == "Focal":
        theirs = monai.FocalLoss(gamma=2.0, use_softmax=activation == "softmax")(logits, target)
        if activation == "softmax":
            theirs = theirs * channels  # MONAI averages over channels, all but one of them 0
    else:
        theirs = monai.DiceLoss(
            sigmoid=activation == "sigmoid",
            softmax=activation == "softmax",
            jaccard=name == "Jaccard",
            batch=True,
            smooth_nr=EPS,
            smooth_dr=EPS,
        )(logits, target)
    assert_same_value_and_gradient(ours, theirs, logits)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("channels", [1, 4])
def test_lovasz_equals_kornia(channels):
    kornia = pytest.importorskip("kornia.losses", reason="kornia is not installed")
    # kornia takes softmax per image, the authors over the batch: one image is both.
    logits, ids = sample(channels, num_images=5 if channels == 1 else 1)
    logits.requires_grad_()
    activation = "sigmoid" if channels == 1 else "softmax"
    ours = build_loss(Loss(function="Lovasz"), activation, channels)(logits, ids)
    theirs = kornia.lovasz_hinge_loss if channels == 1 else kornia.lovasz_softmax_loss
    assert_same_value_and_gradient(ours, theirs(logits, ids), logits)


# --- class weights ------------------------------------------------------------------------------


def test_inverse_frequency_weights_follow_the_formula():
    counts = np.array([900_000, 90_000, 10_000])
    raw = counts**-0.35
    ours = inverse_frequency_weights(counts.tolist(), 0.35)
    assert ours == pytest.approx(tuple(raw / raw.mean()), rel=1e-12)
    assert sum(ours) == pytest.approx(3)
    assert inverse_frequency_weights([5, 5, 5], 0.35) == pytest.approx((1, 1, 1))


def test_class_without_pixels_weighs_one_and_shifts_no_other():
    with_absent = inverse_frequency_weights([100, 0, 10], 0.5)
    assert with_absent[1] == 1
    assert (with_absent[0], with_absent[2]) == inverse_frequency_weights([100, 10], 0.5)
    assert inverse_frequency_weights([0, 0], 0.35) == (1, 1)


def test_rule_for_weights_becomes_numbers():
    config = Loss(function="NLL", weight="inverse_frequency^0.35")
    with pytest.raises(ValueError, match="resolve_weights"):
        build_loss(config, "softmax", 2)
    resolved = resolve_weights(config, [900, 100])
    assert resolved.weight == inverse_frequency_weights([900, 100], 0.35)
    assert resolve_weights(resolved, [1, 1]) is resolved
    # One channel too has two classes to weigh.
    logits, ids = sample(1)
    assert build_loss(resolved, "sigmoid", 1)(logits, ids) > 0
