"""Writes the fixtures of the Keras 2 era, with the real Keras 2 on TensorFlow.

Run in an environment of its own: `pip install "tensorflow-cpu==2.15.*"`, then
`python tests/networks/make_keras2_fixtures.py tests/networks/fixtures`. Each fixture is a
network's JSON, its weights in every format of Keras 2, one input and Keras's output.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow import keras

kl = keras.layers


def windows_network():
    """What TensorFlow pads its own way: strides, lopsided averages, transposed convolutions."""
    inputs = keras.Input((13, 14, 3), name="image")
    x = kl.Conv2D(6, 3, strides=2, padding="same", activation="swish", name="stem/conv")(inputs)
    x = kl.BatchNormalization(axis=[3], momentum=0.9, epsilon=1.1e-5, name="stem/bn")(x)
    x = kl.LeakyReLU(0.2)(x)
    a = kl.AveragePooling2D(2, padding="same")(x)
    b = kl.MaxPooling2D(3, 2, padding="same")(x)
    x = kl.Concatenate()([a, b])
    x = kl.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = kl.SeparableConv2D(8, 5, padding="same", activation="hard_sigmoid", name="separable")(x)
    x = kl.Conv2DTranspose(5, 3, strides=2, padding="same", name="up_a")(x)
    x = kl.PReLU(shared_axes=[1, 2], name="prelu")(x)
    x = kl.Conv2DTranspose(4, 4, strides=3, padding="valid", name="up_b")(x)
    x = kl.ReLU(max_value=6.0, negative_slope=0.1, threshold=0.05)(x)
    x = kl.LayerNormalization(name="layer_norm")(x)
    x = kl.GroupNormalization(2, name="group_norm")(x)
    x = kl.UpSampling2D(2, interpolation="bilinear")(x)
    x = kl.Cropping2D(((1, 0), (2, 1)))(x)
    x = kl.SpatialDropout2D(0.2)(x)
    x = kl.Conv2D(3, 1, name="head")(x)
    return keras.Model(inputs, kl.Softmax(name="probabilities")(x), name="windows")


def nested_network():
    """Shared layers, models as layers (called twice), a frozen normalization."""
    inner_in = keras.Input((8, 8, 4), name="inner_in")
    inner_x = kl.Conv2D(4, 3, padding="same", name="inner_conv")(inner_in)
    norm = kl.BatchNormalization(name="inner_bn")
    norm.trainable = False
    inner = keras.Model(
        inner_in, kl.Add(name="inner_add")([norm(inner_x), inner_in]), name="inner"
    )
    tail = keras.Sequential(
        [kl.Conv2D(4, 1, input_shape=(8, 8, 4), name="tail_conv"), kl.Activation("elu")],
        name="tail",
    )
    inputs = keras.Input((16, 16, 1), name="image")
    x = kl.Conv2D(4, 2, strides=2, name="first")(inputs)
    x = inner(inner(x))
    shared = kl.Conv2D(4, 3, padding="same", name="shared")
    x = kl.Multiply()([shared(x), tail(shared(x))])
    x = kl.UpSampling2D(2)(x)
    return keras.Model(inputs, kl.Conv2D(1, 3, padding="same", activation="sigmoid")(x))


def sequential_network():
    """A Sequential whose input's shape stands at its first layer; three dimensions."""
    return keras.Sequential(
        [
            kl.Conv3D(4, 3, padding="same", activation="relu", input_shape=(6, 7, 8, 2)),
            kl.MaxPooling3D(2, padding="same"),
            kl.BatchNormalization(),
            kl.Conv3DTranspose(3, 3, strides=2, padding="same"),
            kl.ZeroPadding3D(1),
            kl.UpSampling3D(2),
            kl.Conv3D(2, 1, activation="tanh"),
        ],
        name="volume",
    )


def classifier_network():
    """Flatten and Dense, which rely on the order of channels last."""
    return keras.Sequential(
        [
            kl.InputLayer((6, 5, 2)),
            kl.Conv2D(3, 3, activation="selu"),
            kl.Flatten(),
            kl.Dense(12, activation="gelu"),
            kl.Reshape((2, 3, 2)),
            kl.Permute((2, 1, 3)),
            kl.Dense(3, activation="log_softmax"),
        ],
        name="classifier",
    )


def randomize(model):
    rng = np.random.default_rng(0)
    for variable in model.variables:
        positive = any(word in variable.name for word in ("variance", "gamma"))
        value = rng.uniform(0.6, 1.4, variable.shape) if positive else None
        if value is None:
            fan_in = max(int(np.prod(variable.shape[:-1])), 1)
            value = rng.normal(0, (2 / fan_in) ** 0.5, variable.shape)
        variable.assign(value.astype("float32"))


def main(folder):
    tf.keras.utils.set_random_seed(0)
    for build in (windows_network, nested_network, sequential_network, classifier_network):
        model = build()
        randomize(model)
        base = folder / build.__name__.removesuffix("_network")
        base.with_suffix(".json").write_text(model.to_json())
        model.save(f"{base}.h5")
        model.save_weights(f"{base}_only.h5")
        model.save(f"{base}.keras")
        model.save_weights(f"{base}.weights.h5")
        x = np.random.default_rng(1).normal(0.3, 1, (2, *model.input_shape[1:])).astype("float32")
        trainable = sum(int(np.prod(v.shape)) for v in model.trainable_weights)
        np.savez_compressed(
            f"{base}.npz",
            x=x,
            y=model(x, training=False).numpy(),
            counts=[trainable, model.count_params() - trainable],
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
