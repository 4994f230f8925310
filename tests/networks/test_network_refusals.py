"""Settings and activations that are refused: by name, from one list, as the docs have them."""

import json
from pathlib import Path

import keras
import pytest
from keras import layers as kl
from keras.src.activations import ALL_OBJECTS_DICT

from trainer.errors import NetworkError
from trainer.networks import infer_shapes, parse_network, refused
from trainer.networks.config import Config
from trainer.networks.functions import FUNCTIONS
from trainer.networks.layers import LAYERS

DOCS = Path(__file__).parents[2] / "docs/networks.md"
CONV = {"filters": 4, "kernel_size": 3}
# name in the list -> a layer with that setting
SAMPLES = {
    "data_format": ("Conv2D", CONV | {"data_format": "channels_first"}),
    "interpolation": ("UpSampling2D", {"interpolation": "bicubic"}),
    "aspect_ratio": ("Resizing", {"height": 4, "width": 4, "crop_to_aspect_ratio": True}),
    "padding": ("MaxPooling2D", {"padding": "causal"}),
    "dilation_rate": ("Conv2D", CONV | {"strides": 2, "dilation_rate": 2}),
    "strides": ("DepthwiseConv2D", {"kernel_size": 3, "strides": [1, 2]}),
    "groups": ("Conv2DTranspose", CONV | {"groups": 2}),
    "quantization_config": ("Dense", {"units": 2, "quantization_config": {"class_name": "Int8"}}),
    "axis": ("BatchNormalization", {"axis": 1}),
    "axis_null": ("InstanceNormalization", {"axis": None}),
    "rms_scaling": ("LayerNormalization", {"rms_scaling": True}),
    "invert": ("Normalization", {"invert": True}),
    "noise_shape": ("Dropout", {"rate": 0.5, "noise_shape": [None, 8, 1, 3]}),
    "activation": (
        "Conv2D",
        CONV | {"activation": {"class_name": "ReLU", "config": {"threshold": 0.5}}},
    ),
}


def network(kind, config):
    given = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 8, 8, 3]}}
    return [given, {"class_name": kind, "config": {"name": "it", **config}}]


@pytest.mark.parametrize("name", refused.SETTINGS)
def test_setting_of_the_list_is_refused_with_its_remedy(name):
    refusal = refused.SETTINGS[name]
    with pytest.raises(NetworkError) as caught:
        infer_shapes(parse_network(network(*SAMPLES[name]), "net.json"), (8, 8, 3))
    assert "layer 'it'" in str(caught.value)
    assert str(caught.value).partition("layer 'it'")[2].count(refusal.key.split(",")[0])
    assert refusal.remedy in str(caught.value)


def test_every_activation_of_keras_is_read_or_in_the_list():
    assert set(ALL_OBJECTS_DICT) == (set(FUNCTIONS) & set(ALL_OBJECTS_DICT)) | set(
        refused.ACTIVATIONS
    )
    for name in refused.ACTIVATIONS:
        with pytest.raises(NetworkError, match=f"activation: {name} is not supported; expected"):
            parse_network(network("Activation", {"activation": name}), "net.json")


def test_docs_have_the_list():
    text = DOCS.read_text(encoding="utf-8")
    assert refused.documentation() in text
    flowing = " ".join(text.split())
    assert "Activations are " + ", ".join(f"`{name}`" for name in FUNCTIONS) in flowing


class _Read(dict):
    """Settings that remember which of them were looked at."""

    def __init__(self, values):
        super().__init__(values)
        self.seen = set()

    def get(self, key, default=None):
        self.seen.add(key)
        return super().get(key, default)

    def __getitem__(self, key):
        self.seen.add(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self.seen.add(key)
        return super().__contains__(key)


ARGUMENTS = {
    "InputLayer": {"shape": (4, 4, 3)},
    "AveragePooling2D": {"pool_size": 2},
    "AveragePooling3D": {"pool_size": 2},
    "Activation": {"activation": "relu"},
    "Dense": {"units": 2},
    "DepthwiseConv2D": {"kernel_size": 3},
    "Dropout": {"rate": 0.1},
    "SpatialDropout2D": {"rate": 0.1},
    "SpatialDropout3D": {"rate": 0.1},
    "Rescaling": {"scale": 0.1},
    "Reshape": {"target_shape": (2, 2)},
    "Permute": {"dims": (2, 1)},
    "Resizing": {"height": 4, "width": 4},
} | {
    name: {"filters": 2, "kernel_size": 3}
    for name in LAYERS
    if "Conv" in name and "Depth" not in name
}
# what changes no number here: how memory and random numbers are handled, and what belongs to a
# setting that is refused or ignored with a note
WITHOUT_EFFECT = {
    "name", "trainable", "dtype", "optional", "ragged", "sparse", "seed", "fill_mode",
    "fill_value", "renorm_clipping", "renorm_momentum", "quantization_config",
}  # fmt: skip


@pytest.mark.parametrize("kind", [name for name in LAYERS if hasattr(kl, name)])
def test_no_setting_of_keras_is_passed_over_in_silence(kind):
    layer = getattr(kl, kind)(**ARGUMENTS.get(kind, {}))
    settings = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)["config"]))
    config = _Read(settings)
    LAYERS[kind](Config(config, "net.json", keras_major=3, notes=[]))
    unread = set(settings) - config.seen - WITHOUT_EFFECT
    assert not {key for key in unread if not key.endswith(("_regularizer", "_constraint"))}
