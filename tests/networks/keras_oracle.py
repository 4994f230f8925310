"""Compares our networks with Keras's: built there, loaded here, outputs and gradients equal."""

import json

import keras
import numpy as np
import torch

from trainer.networks import check_network, parse_network
from trainer.networks.module import build_module
from trainer.networks.weights import load_weights

TOLERANCE = 1e-4  # of the largest output, in float32


def randomize(model, seed=0):
    """Give every weight random values; variances and gammas stay positive."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        shape, name = variable.shape, variable.path.rsplit("/", maxsplit=1)[-1]
        if "seed" in name or not np.issubdtype(np.dtype(variable.dtype), np.floating):
            continue
        if name in ("moving_variance", "gamma", "variance"):
            value = rng.uniform(0.6, 1.4, shape)
        elif name in ("bias", "beta", "moving_mean", "alpha", "mean"):
            value = rng.normal(0, 0.2, shape)
        else:
            fan_in = max(int(np.prod(shape[:-1])), 1)
            if "depthwise" in variable.path or (len(shape) == 4 and shape[-1] == 1 < shape[-2]):
                fan_in = max(int(np.prod(shape[:-2])), 1)
            value = rng.normal(0, (1.6 / fan_in) ** 0.5, shape)
        variable.assign(value.astype(variable.dtype))


def calibrate(model, shape, scale=1.0):
    """Set the normalizations' statistics to a batch's, so that signals neither fade nor burst.

    Small gammas keep residual branches below their shortcuts, as trained networks have them:
    a hundred random layers at full strength would double a rounding error again and again.
    """
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        strength = 1.0 if norm.gamma is None else 0.4
        if norm.gamma is not None:
            norm.gamma.assign(norm.gamma.numpy() * np.float32(strength))
        norm.beta.assign(norm.beta.numpy() + np.float32(strength))  # off the ReLU's kink
    x = np.random.default_rng(5).normal(0.3, scale, (8, *shape)).astype("float32")
    with torch.no_grad():
        model(x, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def without_last_activation(model):
    """Return the Keras model up to its last activation, as our `logits` gives it."""
    last = model.layers[-1]
    if isinstance(last, keras.layers.Activation | keras.layers.Softmax):
        return keras.Model(model.inputs, last.input)
    if getattr(last, "activation", None) is not None:
        last.activation = keras.activations.linear
    return model


def to_first(x):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1) if x.ndim > 2 else x))


def to_last(y):
    y = y.detach()
    return (torch.movedim(y, 1, -1) if y.ndim > 2 else y).numpy()


def load(model, tmp_path, input_shape):
    """Write a Keras model's JSON and weights, and build it here."""
    graph = parse_network(json.loads(model.to_json()), "net.json")
    module = build_module(graph, input_shape)
    if model.weights:
        path = tmp_path / "weights.h5"
        keras.src.legacy.saving.legacy_h5_format.save_model_to_hdf5(model, path)
        lines = []
        report = load_weights(module, graph, path, lines.append)
        assert report.num_skipped == 0, lines
        assert report.num_missing == 0
    return graph, module.eval()


def relative_error(ours, theirs):
    """Return max|a − b| / max|a|; where the reference is all zero, the largest of ours."""
    assert np.isfinite(theirs).all()
    scale = np.abs(theirs).max()
    return float(np.abs(ours - theirs).max() / (scale if scale > 1e-6 else 1.0))


def compare(
    model,
    tmp_path,
    input_shape,
    gradients=True,
    head_is_output=False,
    varied=False,
    scale=1.0,
    deep=False,
):
    """Return the largest relative error of the output before the last activation."""
    graph, module = load(model, tmp_path, input_shape)
    facts = check_network(graph, input_shape)
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_weights)
    others = sum(int(np.prod(v.shape)) for v in model.non_trainable_weights)
    assert (facts.num_trainable, facts.num_non_trainable) == (trainable, others)
    assert tuple(model.output_shape[1:]) == facts.output_shape

    reference = model if head_is_output else without_last_activation(model)
    in_list = isinstance(getattr(reference, "_inputs_struct", None), list)
    compute = module if head_is_output else module.logits
    errors = []
    for seed in range(4 if gradients else 1):
        x = np.random.default_rng(seed).normal(0.3, 1, (2, *input_shape)).astype("float32")
        x *= np.float32(scale)
        theirs_in = torch.from_numpy(x).requires_grad_()
        theirs = reference([theirs_in] if in_list else theirs_in, training=False)
        if varied:  # else the comparison would say nothing: across pixels, and across inputs
            y = theirs.detach().numpy()
            assert y.std(axis=tuple(range(1, y.ndim - 1))).max() > 1e-3, "equal pixels"
            assert np.std(y[0] - y[1]) > 1e-3, "equal outputs"
        ours_in = to_first(x).requires_grad_()
        ours = compute(ours_in)
        error = relative_error(to_last(ours), theirs.detach().numpy())
        assert error <= TOLERANCE, f"{error:.1e} at {np.abs(theirs.detach().numpy()).max():.1e}"
        if not gradients:
            return error
        # weighted: the plain sum is constant behind a normalization, its gradient mere rounding
        weights = np.random.default_rng(seed + 9).uniform(0.5, 1.5, theirs.shape)
        ((theirs * torch.from_numpy(weights).float()) ** 2).sum().backward()
        ((ours * to_first(weights).float()) ** 2).sum().backward()
        slope, expected = to_last(ours_in.grad), theirs_in.grad.numpy()
        slope_error = relative_error(slope, expected)
        if deep:
            # a hundred layers of ReLU and max pooling have some value within rounding of a kink
            # for every input: then the whole gradient must agree, if not each of its pixels
            distance = np.linalg.norm(slope - expected) / np.linalg.norm(expected)
            slope_error = min(slope_error, distance * TOLERANCE / 1e-2)
        errors.append(max(error, slope_error))
        # a value within rounding of a ReLU's kink flips its slope: rare enough that another
        # input settles it, while a wrong gradient is wrong for every input
        if errors[-1] <= TOLERANCE:
            break
    return min(errors)
