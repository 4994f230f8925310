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
            if "depthwise" in variable.path:
                fan_in = max(int(np.prod(shape[:-2])), 1)
            value = rng.normal(0, (1.6 / fan_in) ** 0.5, shape)
        variable.assign(value.astype(variable.dtype))


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
        report = load_weights(module, graph, path, lambda line: None)
        assert report.num_skipped == 0
        assert report.num_missing == 0
    return graph, module.eval()


def relative_error(ours, theirs):
    """Return max|a − b| / max|a|; where the reference is all zero, the largest of ours."""
    assert np.isfinite(theirs).all()
    scale = np.abs(theirs).max()
    return float(np.abs(ours - theirs).max() / (scale if scale > 1e-6 else 1.0))


def compare(
    model, tmp_path, input_shape, gradients=True, batch=2, head_is_output=False, varied=False
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
        x = np.random.default_rng(seed).normal(0.3, 1, (batch, *input_shape)).astype("float32")
        theirs_in = torch.from_numpy(x).requires_grad_()
        theirs = reference([theirs_in] if in_list else theirs_in, training=False)
        if varied:  # else the comparison would say nothing: across pixels, and across inputs
            y = theirs.detach().numpy()
            assert y.std(axis=tuple(range(1, y.ndim - 1))).max() > 1e-3
            assert np.std(y[0] - y[1]) > 1e-3
        ours_in = to_first(x).requires_grad_()
        ours = compute(ours_in)
        error = relative_error(to_last(ours), theirs.detach().numpy())
        assert error <= TOLERANCE
        if not gradients:
            return error
        # weighted: the plain sum is constant behind a normalization, its gradient mere rounding
        weights = np.random.default_rng(seed + 9).uniform(0.5, 1.5, theirs.shape)
        ((theirs * torch.from_numpy(weights).float()) ** 2).sum().backward()
        ((ours * to_first(weights).float()) ** 2).sum().backward()
        slope_error = relative_error(to_last(ours_in.grad), theirs_in.grad.numpy())
        errors.append(max(error, slope_error))
        # a value within rounding of a ReLU's kink flips its slope: rare enough that another
        # input settles it, while a wrong gradient is wrong for every input
        if errors[-1] <= TOLERANCE:
            break
    return min(errors)
