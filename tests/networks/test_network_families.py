"""Whole networks of users: the families of keras.applications, and four kinds of decoders."""

import keras
import pytest
from keras import layers as kl
from keras_oracle import TOLERANCE, calibrate, compare, randomize

# one small member of each family; two of the slowest stand below, NASNet is not in Keras on torch
FAMILIES = {
    "VGG16": 64,
    "ResNet50": 64,
    "ResNet50V2": 64,
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "DenseNet121": 64,
    "InceptionV3": 107,
    "Xception": 71,
}
OTHERS = {
    "ConvNeXtTiny": 64,
    "InceptionResNetV2": 107,  # 14 s
    "VGG19": 64,
    "ResNet101": 64,
    "ResNet152": 64,
    "ResNet101V2": 64,
    "ResNet152V2": 64,
    "MobileNetV3Large": 64,
    "DenseNet169": 64,
    "DenseNet201": 64,
    **{f"EfficientNetB{n}": 64 for n in range(1, 8)},
    **{f"EfficientNetV2{n}": 64 for n in ("B1", "B2", "B3", "S", "M", "L")},
    **{f"ConvNeXt{n}": 64 for n in ("Small", "Base", "Large", "XLarge")},
}


def compare_application(name, size, tmp_path, record_property):
    shape = (size, size, 3)
    model = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=shape)
    randomize(model)
    for layer in model.layers:
        if isinstance(layer, kl.Normalization):
            layer.finalize_state()
    scale = 100.0 if any(isinstance(x, kl.Rescaling) for x in model.layers) else 1.0
    calibrate(model, shape, scale)
    error = compare(
        model, tmp_path, shape, head_is_output=True, varied=True, scale=scale, deep=True
    )
    record_property("error", f"{name} {error:.1e}")
    assert error <= TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_family_equals_keras(name, tmp_path, record_property):
    compare_application(name, FAMILIES[name], tmp_path, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_member_equals_keras(name, tmp_path, record_property):
    compare_application(name, OTHERS[name], tmp_path, record_property)


def conv_bn(x, filters, kernel=3, **settings):
    x = kl.Conv2D(filters, kernel, padding="same", use_bias=False, **settings)(x)
    return kl.ReLU()(kl.BatchNormalization()(x))


def encoder(inputs):
    """Four stages; returns the output of each, the largest image first."""
    features, x = [], inputs
    for filters in (8, 12, 16, 24):
        x = conv_bn(x, filters, strides=2)
        shortcut = x
        x = kl.add([conv_bn(x, filters), shortcut])
        features.append(x)
    return features


def unet(inputs, transposed):
    features = encoder(inputs)
    x = features.pop()
    for skip in [*reversed(features), None]:
        filters = 8 if skip is None else skip.shape[-1]
        if transposed:
            x = kl.Conv2DTranspose(filters, 4, strides=2, padding="same", use_bias=False)(x)
            x = kl.ReLU()(kl.BatchNormalization()(x))
        else:
            x = kl.UpSampling2D(2)(x)
        x = conv_bn(x if skip is None else kl.concatenate([x, skip]), filters)
    return x


def fpn(inputs):
    pyramid, levels = None, []
    for level, feature in enumerate(reversed(encoder(inputs))):
        lateral = kl.Conv2D(16, 1)(feature)
        pyramid = lateral if pyramid is None else kl.add([kl.UpSampling2D(2)(pyramid), lateral])
        x = pyramid
        for _ in range(2):
            x = kl.Conv2D(8, 3, padding="same", use_bias=False)(x)
            x = kl.Activation("relu")(kl.GroupNormalization(4)(x))
        levels.append(kl.UpSampling2D(2 ** (3 - level), interpolation="bilinear")(x))
    x = kl.SpatialDropout2D(0.2)(kl.concatenate(levels))
    return kl.UpSampling2D(2, interpolation="bilinear")(conv_bn(x, 16))


def linknet(inputs):
    features = encoder(inputs)
    x = features.pop()
    for skip in [*reversed(features), None]:
        filters = 8 if skip is None else skip.shape[-1]
        x = conv_bn(conv_bn(x, x.shape[-1] // 4, 1), x.shape[-1] // 4)
        x = conv_bn(kl.UpSampling2D(2)(x), filters, 1)
        x = x if skip is None else kl.add([x, skip])
    return x


def pspnet(inputs):
    x = encoder(inputs)[2]
    size = x.shape[1]
    branches = [x]
    for bins in (1, 2, 4):
        y = kl.AveragePooling2D(size // bins)(x)
        y = conv_bn(y, 6, 1)
        branches.append(kl.Resizing(size, size, interpolation="bilinear")(y))
    x = kl.Dropout(0.1)(conv_bn(kl.concatenate(branches), 16, 1))
    return kl.UpSampling2D(8, interpolation="bilinear")(x)


def gated(inputs):
    """Squeeze-and-excitation, attention gates, dilated and separable convolutions."""
    first, second, *_ = encoder(inputs)
    x = kl.SeparableConv2D(12, 3, padding="same", dilation_rate=2, activation="silu")(second)
    squeeze = kl.Dense(4, activation="relu")(kl.GlobalAveragePooling2D()(x))
    gate = kl.Reshape((1, 1, 12))(kl.Dense(12, activation="sigmoid")(squeeze))
    x = kl.Conv2DTranspose(8, 2, strides=2)(kl.multiply([x, gate]))
    attention = kl.Conv2D(1, 1, activation="sigmoid")(kl.add([x, first]))
    x = kl.concatenate([x, kl.multiply([first, attention])])
    return kl.UpSampling2D(2)(kl.LayerNormalization()(x))


DECODERS = {
    "unet": lambda x: unet(x, False),
    "unet_transposed": lambda x: unet(x, True),
    "fpn": fpn,
    "linknet": linknet,
    "pspnet": pspnet,
    "gated": gated,
}


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_decoder_equals_keras(name, activation, tmp_path):
    inputs = keras.Input((64, 64, 3))
    channels = 1 if activation == "sigmoid" else 4
    x = kl.Conv2D(channels, 3, padding="same")(DECODERS[name](inputs))
    model = keras.Model(inputs, kl.Activation(activation, name=activation)(x))
    randomize(model)
    assert compare(model, tmp_path, (64, 64, 3), varied=True) <= TOLERANCE
