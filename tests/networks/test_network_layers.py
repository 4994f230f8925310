"""Every layer, with settings that hypothesis draws, against Keras: outputs and gradients."""

from functools import partial

import keras
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from keras import layers as kl
from keras_oracle import TOLERANCE, compare, randomize

from trainer.networks import parse_network
from trainer.networks.layers.convolution import same_padding
from trainer.networks.module import build_module

ACTIVATIONS = [
    None, "linear", "relu", "relu6", "elu", "selu", "gelu", "silu", "swish", "softplus",
    "softsign", "exponential", "mish", "leaky_relu", "hard_sigmoid", "hard_silu", "tanh",
    "sigmoid", "softmax", "log_softmax",
]  # fmt: skip
activations = st.sampled_from(ACTIVATIONS)
paddings = st.sampled_from(["valid", "same"])
flags = st.booleans()
small = st.integers(2, 4)  # Keras warns of a softmax over one channel


def tuples(values, rank):
    return st.tuples(*[values] * rank)


def image(rank, channels=None, low=5, high=11):
    sizes = st.tuples(*[st.integers(low, high if rank == 2 else low + 2)] * rank)
    channels = st.integers(2, 6) if channels is None else channels
    return st.tuples(sizes, channels).map(lambda pair: (*pair[0], pair[1]))


@st.composite
def conv(draw, rank, cls):
    groups = draw(st.sampled_from([1, 1, 2, 3])) if rank == 2 else 1
    strides, dilation = draw(tuples(st.integers(1, 3), rank)), (1,) * rank
    if draw(flags):
        strides, dilation = (1,) * rank, draw(tuples(st.integers(1, 2), rank))
    shape = draw(image(rank, st.integers(1, 3).map(lambda n: n * groups)))
    return shape, partial(
        cls,
        draw(small) * groups,
        draw(tuples(st.integers(1, 3), rank)),
        strides=strides,
        dilation_rate=dilation,
        groups=groups,
        padding=draw(paddings),
        activation=draw(activations),
        use_bias=draw(flags),
    )


@st.composite
def conv_transpose(draw, rank, cls):
    strides, dilation = draw(tuples(st.integers(1, 4), rank)), 1
    if draw(flags):
        strides, dilation = (1,) * rank, draw(st.integers(1, 2))
    extra = {}
    if min(strides) > 1 and draw(flags):
        extra["output_padding"] = tuple(draw(st.integers(0, s - 1)) for s in strides)
    kernel = draw(tuples(st.integers(1, 5 if rank == 2 else 3), rank))
    if extra:  # below, Keras's own shape rule and its kernel disagree
        kernel = tuple(max(k, s) for k, s in zip(kernel, strides, strict=True))
    return draw(image(rank, low=3, high=6)), partial(
        cls,
        draw(small),
        kernel,
        strides=strides,
        dilation_rate=dilation,
        padding=draw(paddings),
        activation=draw(activations),
        use_bias=draw(flags),
        **extra,
    )


@st.composite
def depthwise(draw):
    stride, dilation = draw(st.integers(1, 3)), 1
    if draw(flags):
        stride, dilation = 1, draw(st.integers(1, 2))
    return draw(image(2)), partial(
        kl.DepthwiseConv2D,
        draw(tuples(st.integers(1, 3), 2)),
        strides=stride,
        dilation_rate=dilation,
        depth_multiplier=draw(st.integers(1, 3)),
        padding=draw(paddings),
        activation=draw(activations),
        use_bias=draw(flags),
    )


@st.composite
def separable(draw):
    stride, dilation = draw(st.integers(1, 3)), 1
    if draw(flags):
        stride, dilation = 1, draw(st.integers(1, 2))
    return draw(image(2)), partial(
        kl.SeparableConv2D,
        draw(small),
        draw(tuples(st.integers(1, 3), 2)),
        strides=stride,
        dilation_rate=dilation,
        depth_multiplier=draw(st.integers(1, 3)),
        padding=draw(paddings),
        activation=draw(activations),
        use_bias=draw(flags),
    )


@st.composite
def pool(draw, rank, cls):
    size = draw(tuples(st.integers(1, 4), rank))
    strides = draw(st.none() | tuples(st.integers(1, 3), rank))
    shape, padding = draw(image(rank)), draw(paddings)
    if cls in (kl.AveragePooling2D, kl.AveragePooling3D):
        # Keras on torch repeats the edge where the padding is lopsided; TensorFlow, whose
        # networks users bring, leaves it out: test_average_leaves_padding_out checks those
        pads = [same_padding(*n) for n in zip(shape, size, strides or size, strict=False)]
        padding = "valid" if any(a != b for a, b in pads) else padding
    return shape, partial(cls, size, strides=strides, padding=padding)


@st.composite
def plain(draw, rank, cls, **options):
    chosen = {key: draw(strategy) for key, strategy in options.items()}
    return draw(image(rank)), partial(cls, **chosen)


@st.composite
def norm(draw, cls, axes=None, groups=None):
    options = {
        "epsilon": draw(st.sampled_from([1e-5, 1e-3, 0.1])),
        "center": draw(flags),
        "scale": draw(flags),
    }
    shape = draw(image(2))
    if axes is not None:
        options["axis"] = draw(st.sampled_from(axes))
    if groups is not None:
        options["scale"] |= options["center"]  # Keras on torch fails for a center alone
        options["groups"] = draw(st.sampled_from([n for n in groups if shape[-1] % n == 0]))
    return shape, partial(cls, **options)


@st.composite
def padding_or_cropping(draw, rank, cls, name):
    one = st.integers(0, 2)
    value = draw(one | tuples(one, rank) | tuples(tuples(one, 2), rank))
    return draw(image(rank)), partial(cls, **{name: value})


@st.composite
def reshape(draw):
    shape = draw(image(2, high=6))
    targets = [
        (-1, shape[-1]),
        (shape[0] * shape[1], shape[2]),
        (shape[1], shape[0], -1),
        (shape[2], -1),
        (-1,),
        (1, 1, shape[0] * shape[1] * shape[2]),
    ]
    return shape, partial(kl.Reshape, draw(st.sampled_from(targets)))


@st.composite
def prelu(draw):
    return draw(image(2)), partial(
        kl.PReLU, shared_axes=draw(st.sampled_from([None, [1, 2], [1], [3]]))
    )


@st.composite
def relu(draw):
    maximum = draw(st.sampled_from([None, 0.7, 6]))
    return draw(image(2)), partial(
        kl.ReLU,
        max_value=maximum,
        negative_slope=draw(st.sampled_from([0.0, 0.1])),
        threshold=draw(st.sampled_from([0.0, 0.3])),
    )


@st.composite
def rescaling(draw):
    shape = draw(image(2))
    channels = st.lists(st.floats(0.5, 2), min_size=shape[-1], max_size=shape[-1])
    scale = draw(st.floats(0.1, 2) | channels)
    return shape, partial(kl.Rescaling, scale, offset=draw(st.floats(-1, 1)))


@st.composite
def dense(draw):
    shape = draw(image(2) | st.tuples(st.integers(1, 9)) | st.just((4, 3)))
    return shape, partial(
        kl.Dense, draw(small), activation=draw(activations), use_bias=draw(flags)
    )


rates = st.floats(0, 0.9)
CASES = {
    "Conv2D": conv(2, kl.Conv2D),
    "Conv3D": conv(3, kl.Conv3D),
    "Conv2DTranspose": conv_transpose(2, kl.Conv2DTranspose),
    "Conv3DTranspose": conv_transpose(3, kl.Conv3DTranspose),
    "DepthwiseConv2D": depthwise(),
    "SeparableConv2D": separable(),
    "Dense": dense(),
    "MaxPooling2D": pool(2, kl.MaxPooling2D),
    "MaxPooling3D": pool(3, kl.MaxPooling3D),
    "AveragePooling2D": pool(2, kl.AveragePooling2D),
    "AveragePooling3D": pool(3, kl.AveragePooling3D),
    "GlobalMaxPooling2D": plain(2, kl.GlobalMaxPooling2D, keepdims=flags),
    "GlobalMaxPooling3D": plain(3, kl.GlobalMaxPooling3D, keepdims=flags),
    "GlobalAveragePooling2D": plain(2, kl.GlobalAveragePooling2D, keepdims=flags),
    "GlobalAveragePooling3D": plain(3, kl.GlobalAveragePooling3D, keepdims=flags),
    "BatchNormalization": norm(kl.BatchNormalization, axes=[-1, 3]),
    "LayerNormalization": norm(kl.LayerNormalization, axes=[-1, 3, [1, 2, 3], [2, 3], [-1]]),
    "GroupNormalization": norm(kl.GroupNormalization, groups=[1, 2, 3, -1]),
    "Activation": plain(2, kl.Activation, activation=st.sampled_from(ACTIVATIONS[1:])),
    "ReLU": relu(),
    "LeakyReLU": plain(2, kl.LeakyReLU, negative_slope=st.sampled_from([0.0, 0.05, 0.3])),
    "ELU": plain(2, kl.ELU, alpha=st.sampled_from([0.5, 1.0])),
    "PReLU": prelu(),
    "Softmax": plain(2, kl.Softmax, axis=st.sampled_from([-1, 1, 2, 3])),
    "UpSampling2D": plain(
        2,
        kl.UpSampling2D,
        size=tuples(st.integers(1, 3), 2),
        interpolation=st.sampled_from(["nearest", "bilinear"]),
    ),
    "UpSampling3D": plain(3, kl.UpSampling3D, size=tuples(st.integers(1, 3), 3)),
    "Resizing": plain(
        2,
        kl.Resizing,
        height=st.integers(1, 24),
        width=st.integers(1, 24),
        interpolation=st.sampled_from(["nearest", "bilinear"]),
    ),
    "ZeroPadding2D": padding_or_cropping(2, kl.ZeroPadding2D, "padding"),
    "ZeroPadding3D": padding_or_cropping(3, kl.ZeroPadding3D, "padding"),
    "Cropping2D": padding_or_cropping(2, kl.Cropping2D, "cropping"),
    "Cropping3D": padding_or_cropping(3, kl.Cropping3D, "cropping"),
    "Rescaling": rescaling(),
    "Flatten": plain(2, kl.Flatten),
    "Reshape": reshape(),
    "Permute": plain(2, kl.Permute, dims=st.permutations([1, 2, 3])),
    "Dropout": plain(2, kl.Dropout, rate=rates),
    "SpatialDropout2D": plain(2, kl.SpatialDropout2D, rate=rates),
    "SpatialDropout3D": plain(3, kl.SpatialDropout3D, rate=rates),
    "Identity": plain(2, kl.Identity),
}


def check_layer(data, strategy, tmp_path):
    shape, make_layer = data.draw(strategy)
    inputs = keras.Input(shape)
    try:
        outputs = make_layer()(inputs)
    except ValueError:  # nothing left of the image
        return
    model = keras.Model(inputs, outputs)
    randomize(model)
    assert compare(model, tmp_path, shape, head_is_output=True) <= TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_layer_equals_keras(name, tmp_path_factory):
    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def check(data):
        check_layer(data, CASES[name], tmp_path_factory.getbasetemp())

    check()


@pytest.mark.parametrize("cls", [kl.Add, kl.Multiply, kl.Average, kl.Maximum, kl.Minimum])
@pytest.mark.parametrize("other", ["same", "gate", "vector"])
def test_merge_equals_keras(cls, other, tmp_path):
    inputs = keras.Input((6, 5, 4))
    x = kl.Conv2D(4, 3, padding="same")(inputs)
    y = {
        "same": kl.Conv2D(4, 1),
        "gate": kl.GlobalAveragePooling2D(keepdims=True),
        "vector": kl.GlobalAveragePooling2D(),
    }[other](x)
    model = keras.Model(inputs, kl.Identity()(cls()([x, y, x])))
    randomize(model)
    assert compare(model, tmp_path, (6, 5, 4)) <= TOLERANCE


def test_subtract_equals_keras(tmp_path):
    inputs = keras.Input((6, 5, 4))
    model = keras.Model(inputs, kl.Subtract()([inputs, kl.Conv2D(4, 1)(inputs)]))
    randomize(model)
    assert compare(model, tmp_path, (6, 5, 4)) <= TOLERANCE


@pytest.mark.parametrize("axis", [-1, 1, 2, 3])
def test_concatenate_equals_keras(axis, tmp_path):
    inputs = keras.Input((6, 5, 4))
    y = kl.Conv2D(4, 1)(inputs)
    model = keras.Model(inputs, kl.Concatenate(axis=axis)([inputs, y, y]))
    randomize(model)
    assert compare(model, tmp_path, (6, 5, 4)) <= TOLERANCE


@pytest.mark.parametrize("size, stride", [(2, 2), (3, 2), (2, 1), (4, 3)])
def test_average_leaves_padding_out(size, stride):
    """TensorFlow's rule: a window that hangs over the edge averages its real pixels only."""
    config = {"pool_size": size, "strides": stride, "padding": "same"}
    network = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 7, 8, 1]}},
        {"class_name": "AveragePooling2D", "config": config},
    ]
    module = build_module(parse_network(network, "net"), (7, 8, 1))
    x = torch.rand(1, 1, 7, 8)
    y = module(x)
    starts = [
        [i * stride - same_padding(n, size, stride)[0] for i in range(-(-n // stride))]
        for n in (7, 8)
    ]
    assert y.shape[2:] == (len(starts[0]), len(starts[1]))
    for i, top in enumerate(starts[0]):
        for j, left in enumerate(starts[1]):
            window = x[0, 0, max(top, 0) : top + size, max(left, 0) : left + size]
            assert torch.isclose(y[0, 0, i, j], window.mean())


@pytest.mark.parametrize("affine", [True, False])
def test_instance_normalization_is_torchs(affine):
    """The layer is in no Keras; tensorflow-addons computes it as torch does."""
    config = {"axis": -1, "epsilon": 1e-5, "center": affine, "scale": affine}
    network = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 7, 8, 3]}},
        {"class_name": "Addons>InstanceNormalization", "config": {"name": "in", **config}},
    ]
    module = build_module(parse_network(network, "net"), (7, 8, 3))
    x = torch.rand(2, 3, 7, 8)
    reference = torch.nn.InstanceNorm2d(3, affine=affine)
    if affine:
        module.load_state_dict({"in.weight": torch.rand(3), "in.bias": torch.rand(3)})
        reference.load_state_dict({k[3:]: v for k, v in module.state_dict().items()})
    torch.testing.assert_close(module(x), reference(x))


@pytest.mark.parametrize("kind", ["Dropout", "SpatialDropout2D", "StochasticDepth"])
def test_dropout_keeps_the_mean_and_drops_what_it_says(kind):
    rate = {"drop_path_rate" if kind == "StochasticDepth" else "rate": 0.25}
    network = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 8, 8, 64]}},
        {"class_name": kind, "config": rate},
    ]
    module = build_module(parse_network(network, "net"), (8, 8, 64))
    x = torch.ones(256, 64, 8, 8)
    assert torch.equal(module.eval()(x), x)
    y = module.train()(x)
    assert abs(y.mean() - 1) < 0.15
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    per_channel = y.flatten(2).std(2).max()
    per_image = y.flatten(1).std(1).max()
    assert (per_channel == 0) == (kind != "Dropout")
    assert (per_image == 0) == (kind == "StochasticDepth")


INITIALIZERS = {
    "he_normal": (0.0, (2 / 288) ** 0.5),
    "he_uniform": (0.0, (2 / 288) ** 0.5),
    "glorot_uniform": (0.0, (2 / (288 + 576)) ** 0.5),
    "lecun_normal": (0.0, (1 / 288) ** 0.5),
    "ones": (1.0, 0.0),
    "orthogonal": (0.0, (1 / 288) ** 0.5),
    "RandomNormal": (0.5, 0.1),
    "TruncatedNormal": (0.5, 0.1 * 0.8796),
    "RandomUniform": (0.5, 0.1),
}
SETTINGS = {
    "RandomNormal": {"mean": 0.5, "stddev": 0.1},
    "TruncatedNormal": {"mean": 0.5, "stddev": 0.1},
    "RandomUniform": {"minval": 0.5 - 0.1 * 3**0.5, "maxval": 0.5 + 0.1 * 3**0.5},
}


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initializer_is_honoured(name):
    value = {"class_name": name, "config": SETTINGS[name]} if name in SETTINGS else name
    config = {"filters": 64, "kernel_size": 3, "kernel_initializer": value, "name": "conv"}
    network = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 8, 8, 32]}},
        {"class_name": "Conv2D", "config": config},
    ]
    weight = build_module(parse_network(network, "net"), (8, 8, 32)).state_dict()["conv.weight"]
    mean, std = INITIALIZERS[name]
    assert abs(weight.mean() - mean) < 0.003
    assert abs(weight.std() - std) < 0.03 * std + 1e-7
